"""What is asked of a generator and what it answers."""

import json
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from eval_harness.errors import UserError
from eval_harness.models.identity import sha

# A text, or chat messages ({"role": ..., "content": ...}), which need a chat template.
Prompt = str | list[dict[str, str]]
Finish = Literal["stop", "length", "failed"]
FAILED: Finish = "failed"  # no text came: refused, filtered, or all of it was unfinished reasoning


@dataclass(frozen=True)
class Sampling:
    """How texts are drawn.

    `temperatures` are all used, `samples` texts each; at temperature 0 the text is the most likely one and
    all its samples are equal (it is generated once). `top_p` is the nucleus: the smallest set of tokens whose
    probabilities, after the temperature, sum to at least it. A text ends before the first of `stop`.
    """

    temperatures: tuple[float, ...] = (0.0,)
    samples: int = 1
    top_p: float = 1.0
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0

    def checked(self) -> "Sampling":
        """Return self. Raises UserError for a value out of range."""
        ranges = all(math.isfinite(t) and 0 <= t <= 10 for t in self.temperatures)
        if not self.temperatures or not ranges or len(set(self.temperatures)) != len(self.temperatures):
            raise UserError(
                "temperatures", got=list(self.temperatures), expected="distinct numbers from 0 to 10"
            )
        if self.samples < 1 or self.max_new_tokens < 1:
            raise UserError(
                "samples and new tokens",
                got=(self.samples, self.max_new_tokens),
                expected="integers of at least 1",
            )
        if not 0 < self.top_p <= 1:
            raise UserError("top_p", got=self.top_p, expected="a number above 0 and up to 1")
        if any(not stop for stop in self.stop):
            raise UserError("stop strings", got=list(self.stop), expected="texts that are not empty")
        return self


class Sample(NamedTuple):
    """One text; empty where `finish` is failed.

    `prompt` is the prompt's place in the list, `number` tells samples of one temperature apart, `tokens`
    counts what was written, reasoning included.
    """

    prompt: int
    temperature: float
    number: int
    text: str
    tokens: int
    finish: Finish


class Draw(NamedTuple):
    """One text to be generated: the rendered prompt, its tokens, and the key it is stored under.

    `ids` is empty where the engine tokenises (endpoints).
    """

    key: str
    text: str
    ids: list[int]
    temperature: float
    seed: int
    messages: list[dict[str, str]] | None = None


class Written(NamedTuple):
    """What an engine gives for a Draw."""

    text: str
    tokens: int
    finish: Finish


def draw_seed(seed: int, prompt: str, temperature: float, number: int) -> int:
    """Seed of one sample, 63 bits: a function of these four and of nothing else."""
    return int(sha(json.dumps([seed, prompt, temperature, number]))[:16], 16) >> 1


def cut(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there was one."""
    starts = [start for start in (text.find(mark) for mark in stop) if start >= 0]
    return (text[: min(starts)], True) if starts else (text, False)
