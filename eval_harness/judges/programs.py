"""Judges without a model: a function of yours, a list of weighted words, and length."""

import hashlib
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError, first_line
from eval_harness.judges.registry import register_judge
from eval_harness.judges.templates import Template
from eval_harness.judges.types import FAILED, UNPARSABLE, Answer, Cost, Question

_WORD = re.compile(r"[\w'-]+")


def compared(first: float, second: float) -> float:
    """1 where the first score is higher, 0 where it is lower, one half for a tie."""
    return 0.5 if first == second else float(first > second)


class _Scorer:
    """A judge that scores single texts: of a pair the higher score wins, a rating is the score itself."""

    def score(self, text: str, fields: dict[str, str]) -> float:
        """Score of one text."""
        raise NotImplementedError

    def value(self, fields: dict[str, str]) -> float | None:
        """Value of one question."""
        if "first" not in fields:
            return self.score(fields["text"], fields)
        return compared(self.score(fields["first"], fields), self.score(fields["second"], fields))

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """One after the other."""
        for place, question in enumerate(questions):
            value = self.value(question.fields)
            yield place, Answer(value) if value is not None else Answer(None, UNPARSABLE)

    def cost(self, questions: Sequence[Question]) -> Cost:
        """Nothing but time."""
        return Cost(len(questions), 0, 0, 0.0)


@register_judge("length")
@dataclass(frozen=True)
class LengthJudge(_Scorer):
    """The longer text wins, in characters, or with `shorter` the shorter one: a baseline for other judges."""

    template: Template | None = None
    shorter: bool = False

    @property
    def label(self) -> str:
        """Name for reports."""
        return "shorter text" if self.shorter else "longer text"

    def settings(self) -> dict[str, Any]:
        """Which way."""
        return {"judge": "length", "shorter": self.shorter}

    def score(self, text: str, fields: dict[str, str]) -> float:
        """Number of characters, negative for `shorter`."""
        return float(-len(text) if self.shorter else len(text))


@register_judge("words")
@dataclass(frozen=True)
class WordJudge(_Scorer):
    """The text with the larger sum of word weights wins: a reward whose truth is known.

    `file` is YAML or JSON: word -> weight, words in lower case.
    """

    template: Template | None
    file: str

    def __post_init__(self) -> None:
        """Read the weights. Raises UserError: unreadable, or not words and numbers."""
        import yaml

        try:
            raw = yaml.safe_load(Path(self.file).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError("judge words: file", got=f"{self.file}: {first_line(error)}") from error
        if not isinstance(raw, dict) or not all(isinstance(v, int | float) for v in raw.values()) or not raw:
            raise UserError("judge words: file", got=self.file, expected="a mapping word: weight")
        object.__setattr__(self, "_weights", {str(word): float(weight) for word, weight in raw.items()})

    @property
    def label(self) -> str:
        """Name for reports."""
        return f"words of {Path(self.file).name}"

    def settings(self) -> dict[str, Any]:
        """The weights."""
        weights: dict[str, float] = self.__dict__["_weights"]
        return {"judge": "words", "weights": weights}

    def score(self, text: str, fields: dict[str, str]) -> float:
        """Sum of the weights of the text's words."""
        weights: dict[str, float] = self.__dict__["_weights"]
        return sum(weights.get(word, 0.0) for word in _WORD.findall(text.lower()))


@register_judge("function")
@dataclass(frozen=True)
class FunctionJudge(_Scorer):
    """A Python function of yours: `module:name` or `path/to/file.py:name`.

    It is called with the question's fields as keywords (`prompt`, `first`, `second` for a pair) and returns a
    number, for a pair in [0, 1]; None means that it has no answer, an exception that it failed.
    """

    template: Template | None
    function: str

    def __post_init__(self) -> None:
        """Load the function. Raises UserError where there is none."""
        object.__setattr__(self, "_call", _load(self.function))

    @property
    def label(self) -> str:
        """The function's name."""
        return self.function.rpartition(":")[2]

    def settings(self) -> dict[str, Any]:
        """The name and the content of the file that holds it."""
        code = self.__dict__["_call"].__code__
        content = hashlib.sha256(Path(code.co_filename).read_bytes()).hexdigest()
        return {"judge": "function", "name": code.co_name, "content": content}

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """One after the other; what the function raises is a failed answer."""
        for place, question in enumerate(questions):
            try:
                value = self.__dict__["_call"](**question.fields)
            except Exception as error:  # the user's own code: whatever it raises, the other answers stand
                yield place, Answer(None, FAILED, first_line(error))
                continue
            fits = isinstance(value, int | float) and ("first" not in question.fields or 0 <= value <= 1)
            yield place, Answer(float(value)) if fits else Answer(None, UNPARSABLE, repr(value)[:200])


def _load(name: str) -> Callable[..., Any]:
    place, colon, attribute = name.rpartition(":")
    expected = "module:function or path/to/file.py:function"
    if not colon:
        raise UserError("judge function", got=name, expected=expected)
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location("eval_harness_judge", place)
            assert spec is not None  # for a name that ends in .py there is a loader
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        found = getattr(module, attribute)
    except Exception as error:  # importing runs the user's file
        raise UserError("judge function", got=f"{name}: {first_line(error)}", expected=expected) from error
    if not hasattr(found, "__code__"):
        raise UserError("judge function", got=f"{name}: {type(found).__name__}", expected="a Python function")
    return found  # type: ignore[no-any-return]
