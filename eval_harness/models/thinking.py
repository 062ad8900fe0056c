"""Models that think before they answer: what of a text is reasoning, and whether an answer follows it at all.

Reasoning that stays in a graded text is read as part of the answer, and a text whose reasoning never ends is
no answer: the budget was used before one came.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eval_harness.models.identity import sha
from eval_harness.models.reference import ModelRef, chat_template
from eval_harness.models.settings import Settings

START, END = "<think>", "</think>"
# A template with a thinking switch names one of these.
_SWITCH = re.compile(r"enable_thinking|\bthinking\b|</?think>|reasoning_content")


@dataclass(frozen=True)
class Thinking:
    """How reasoning is told from the answer.

    `strip`: it is removed before anything is graded. `opened`: the prompt itself opens the block, so a text
    holds at most its end. `end` closes it.
    """

    strip: bool = False
    opened: bool = False
    end: str = END

    def answer(self, text: str) -> str | None:
        """What follows the last block of reasoning; None where a block never ends.

        As lm-eval's `postprocess_generated_text` with `think_end_token`, but for None.
        """
        if not self.strip:
            return text
        _, mark, rest = text.rpartition(self.end)
        if START in (rest if mark else text) or (self.opened and not mark):
            return None
        return (rest if mark else text).lstrip()

    def fact(self) -> tuple[tuple[str, str], ...]:
        """What a report says of it: (name, text) pairs."""
        if not self.strip:
            return ()
        return (
            ("reasoning", f"removed before grading, up to {self.end}; unfinished reasoning is no answer"),
        )


def thinking_of(ref: ModelRef, settings: Settings, prompts: Iterable[str]) -> Thinking:
    """How the reasoning of a model is told from its answers.

    Args:
      ref: the model.
      settings: `strip_thinking` decides; `auto` strips where a chat template with a thinking switch is
        applied, and the answers of chat endpoints, whose template is out of sight.
      prompts: as the model will read them.
    """
    end = str(settings.engine.get("think_end_token", END))
    if ref.kind == "endpoint" and settings.endpoint == "chat":
        return Thinking(settings.strip_thinking != "no", end=end)
    template = chat_template(ref.tokenizer) if ref.tokenizer and settings.chat_template else None
    switch = template is not None and _SWITCH.search(template) is not None
    strip = settings.strip_thinking == "yes" or (settings.strip_thinking == "auto" and switch)
    return Thinking(strip, strip and any(text.rstrip().endswith(START) for text in prompts), end)


def keyed(space: str, thinking: Thinking) -> str:
    """The key of a model's answers, of another kind where reasoning is removed from them."""
    return sha(json.dumps([space, dataclasses.asdict(thinking)])) if thinking.strip else space


def marks_of(tokenizer: Any, thinking: Thinking) -> frozenset[int]:
    """Ids of the marks that decoding without special tokens would leave out."""
    if not thinking.strip:
        return frozenset()
    known = tokenizer.get_added_vocab()
    ids = [known[mark] for mark in (START, thinking.end) if mark in known]
    return frozenset(i for i in ids if not tokenizer.decode([i], skip_special_tokens=True))


def decode(tokenizer: Any, ids: Sequence[int], marks: frozenset[int]) -> str:
    """The text of token ids without special tokens, but with these marks."""
    if not marks & set(ids):
        return str(tokenizer.decode(ids, skip_special_tokens=True))
    parts, run = [], list[int]()
    for token in ids:
        if token in marks:
            parts += [tokenizer.decode(run, skip_special_tokens=True), tokenizer.decode([token])]
            run = []
        else:
            run.append(token)
    return "".join([*parts, tokenizer.decode(run, skip_special_tokens=True)])
