"""Judgements that were made before: AlpacaEval annotations as a judge."""

import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import model_validator

from eval_harness.errors import UserError
from eval_harness.files.configs import Text
from eval_harness.files.rows import PROMPT_KEYS, read_rows, text_field
from eval_harness.judges.registry import register_judge
from eval_harness.judges.types import FAILED, UNPARSABLE, Answer, Judge, Question


class Annotation(NamedTuple):
    """One line of AlpacaEval's annotations; `share` of the win goes to `second`, None is no judgement."""

    prompt: str
    first: str | None
    second: str
    share: float | None


@register_judge("recorded")
class RecordedJudge(Judge):
    """Answers from a file of annotations (instruction, output_1, output_2, preference).

    They were made in one order; the answer to the other order is the same judgement read the other way
    round, so no position bias can be seen. Where the file leaves output_1 out, prompt and output_2 identify
    a judgement. Several annotators of one pair count alike: their mean is the answer, without those who gave
    no preference.
    """

    file: Text
    order_free: ClassVar[bool] = True

    @functools.cached_property
    def shares(self) -> dict[tuple[str, str | None, str], float | None]:
        """Share of the win that goes to output_2, by prompt, output_1 and output_2."""
        given: dict[tuple[str, str | None, str], list[float]] = {}
        for one in read_annotations(Path(self.file)):
            shares = given.setdefault((one.prompt, one.first, one.second), [])
            shares += [] if one.share is None else [one.share]
        return {key: math.fsum(shares) / len(shares) if shares else None for key, shares in given.items()}

    @model_validator(mode="after")
    def _readable(self) -> Self:
        self.shares  # noqa: B018 - read now, not after the texts are written
        return self

    @property
    def label(self) -> str:
        """Name for reports."""
        return f"recorded in {Path(self.file).name}"

    def settings(self) -> dict[str, Any]:
        """The file's content."""
        # Version 2: of several annotators the last row counted alone in the first.
        return {
            "judge": "recorded",
            "version": 2,
            "content": hashlib.sha256(Path(self.file).read_bytes()).hexdigest(),
        }

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Look every question up."""
        for number, question in enumerate(questions):
            yield number, self._look_up(question.fields)

    def _look_up(self, fields: dict[str, str]) -> Answer:
        prompt, first, second = (fields[name].strip() for name in ("prompt", "first", "second"))
        for key, to_second in (
            ((prompt, first, second), True),
            ((prompt, second, first), False),
            ((prompt, None, second), True),
            ((prompt, None, first), False),
        ):
            if key in self.shares:
                share = self.shares[key]
                if share is None:
                    return Answer(None, UNPARSABLE, "no preference recorded")
                return Answer(1 - share if to_second else share)
        return Answer(None, FAILED, "not in the file of annotations")


def read_annotations(path: Path) -> list[Annotation]:
    """Read AlpacaEval's annotations.

    A preference runs from 1 (output_1) to 2 (output_2); 0 and 1.5 are ties, as in alpaca-eval 0.6; none is no
    judgement. output_1 is None where the file leaves it out.

    Raises:
      UserError: a row without prompt, output_2 or preference, or a preference out of range.
    """
    judged: list[Annotation] = []
    for number, row in enumerate(read_rows(path), start=1):
        where = f"{path}, row {number}"
        prompt = text_field(row, PROMPT_KEYS, where).strip()
        second = text_field(row, "output_2", where, optional=True).strip()
        first = text_field(row, "output_1", where, optional=True).strip() if "output_1" in row else None
        value = row.get("preference", "missing")
        number_given = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or (number_given and value != value):
            judged.append(Annotation(prompt, first, second, None))
        elif number_given and (value == 0 or 1 <= value <= 2):
            judged.append(Annotation(prompt, first, second, 0.5 if value == 0 else float(value) - 1))
        else:
            raise UserError(f"{where}: preference", got=value, expected="a number from 1 to 2, or null")
    return judged
