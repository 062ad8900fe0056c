"""Judges without a model: a function of yours, a list of weighted words, and length."""

import functools
import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import regex
from pydantic import model_validator

from eval_harness.errors import UserError, first_line
from eval_harness.files.configs import Text, read_yaml
from eval_harness.judges.registry import register_judge
from eval_harness.judges.types import FAILED, UNPARSABLE, Answer, Judge, Question

_WORD = regex.compile(r"[\w\p{M}'-]+")  # \w alone cuts Hindi words at their vowel signs


def compared(first: float, second: float) -> float:
    """1 where the first score is higher, 0 where it is lower, one half for a tie."""
    return 0.5 if first == second else float(first > second)


class _TextScore(Judge):
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
        for number, question in enumerate(questions):
            value = self.value(question.fields)
            yield number, Answer(value) if value is not None else Answer(None, UNPARSABLE)


@register_judge("length")
class LengthJudge(_TextScore):
    """The longer text wins, in characters, or with `shorter` the shorter one: a baseline for other judges."""

    shorter: bool = False
    order_free: ClassVar[bool] = True

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
class WordJudge(_TextScore):
    """The text with the larger sum of word weights wins: a reward whose truth is known.

    `file` is YAML or JSON: word -> weight, words in lower case.
    """

    file: Text
    order_free: ClassVar[bool] = True

    @functools.cached_property
    def weights(self) -> dict[str, float]:
        """Word -> weight. Raises UserError: unreadable, or not words and numbers."""
        raw = read_yaml(Path(self.file), "judge words: file")
        numbers = isinstance(raw, dict) and all(isinstance(value, int | float) for value in raw.values())
        if not raw or not numbers:
            raise UserError("judge words: file", got=self.file, expected="a mapping word: weight")
        return {str(word): float(weight) for word, weight in raw.items()}

    @model_validator(mode="after")
    def _readable(self) -> Self:
        self.weights  # noqa: B018 - read now, not after the texts are written
        return self

    @property
    def label(self) -> str:
        """Name for reports."""
        return f"words of {Path(self.file).name}"

    def settings(self) -> dict[str, Any]:
        """The weights."""
        return {"judge": "words", "weights": self.weights}

    def score(self, text: str, fields: dict[str, str]) -> float:
        """Sum of the weights of the text's words."""
        return sum(self.weights.get(word, 0.0) for word in _WORD.findall(text.lower()))


@register_judge("function")
class FunctionJudge(_TextScore):
    """A Python function of yours: `module:name` or `path/to/file.py:name`.

    It is called with the question's fields as keywords (`prompt`, `first`, `second` for a pair) and returns a
    number, for a pair in [0, 1]; None means that it has no answer, an exception that it failed.
    """

    function: Text

    @functools.cached_property
    def call(self) -> Callable[..., Any]:
        """The function. Raises UserError where there is none."""
        return _load(self.function)

    @model_validator(mode="after")
    def _loads(self) -> Self:
        self.call  # noqa: B018 - loaded now, not after the texts are written
        return self

    @property
    def label(self) -> str:
        """The names of module and function."""
        module, _, name = self.function.rpartition(":")
        return f"{Path(module).stem if module.endswith('.py') else module}:{name}"

    def settings(self) -> dict[str, Any]:
        """The name and the content of the file that holds it."""
        code = self.call.__code__
        content = hashlib.sha256(Path(code.co_filename).read_bytes()).hexdigest()
        return {"judge": "function", "name": code.co_name, "content": content}

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """One after the other; what the function raises is a failed answer."""
        for number, question in enumerate(questions):
            try:
                value = self.call(**question.fields)
            except Exception as error:  # the user's own code: whatever it raises, the other answers stand
                yield number, Answer(None, FAILED, first_line(error))
                continue
            fits = isinstance(value, int | float) and ("first" not in question.fields or 0 <= value <= 1)
            yield number, Answer(float(value)) if fits else Answer(None, UNPARSABLE, repr(value)[:200])


def _load(name: str) -> Callable[..., Any]:
    source, colon, attribute = name.rpartition(":")
    expected = "module:function or path/to/file.py:function"
    if not colon:
        raise UserError("judge function", got=name, expected=expected)
    try:
        if source.endswith(".py"):
            spec = importlib.util.spec_from_file_location("eval_harness_judge", source)
            assert spec is not None  # for a name that ends in .py there is a loader
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(source)
        function = getattr(module, attribute)
    except Exception as error:  # importing runs the user's file
        raise UserError("judge function", got=f"{name}: {first_line(error)}", expected=expected) from error
    if not hasattr(function, "__code__"):
        raise UserError(
            "judge function", got=f"{name}: {type(function).__name__}", expected="a Python function"
        )
    return function  # type: ignore[no-any-return]
