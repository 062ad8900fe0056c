"""Judgements that were made before: AlpacaEval annotations as a judge."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from eval_harness.files import read_annotations
from eval_harness.judges.registry import register_judge
from eval_harness.judges.templates import Template
from eval_harness.judges.types import FAILED, UNPARSABLE, Answer, Cost, LocalJudge, Question


@register_judge("recorded")
@dataclass(frozen=True)
class RecordedJudge(LocalJudge):
    """Answers from a file of annotations (instruction, output_1, output_2, preference).

    They were made in one order; the answer to the other order is the same judgement read the other way
    round, so no position bias can be seen. Where the file leaves output_1 out, prompt and output_2 identify
    a judgement.
    """

    template: Template | None
    file: str
    order_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Read the file. Raises UserError as `read_annotations`."""
        known: dict[tuple[str, str | None, str], float | None] = {}
        for prompt, first, second, value in read_annotations(Path(self.file)):
            known[prompt, first, second] = value
        object.__setattr__(self, "_known", known)

    @property
    def label(self) -> str:
        """Name for reports."""
        return f"recorded in {Path(self.file).name}"

    def settings(self) -> dict[str, Any]:
        """The file's content."""
        return {"judge": "recorded", "content": hashlib.sha256(Path(self.file).read_bytes()).hexdigest()}

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Look every question up."""
        for place, question in enumerate(questions):
            yield place, self._find(question.fields)

    def _find(self, fields: dict[str, str]) -> Answer:
        known: dict[tuple[str, str | None, str], float | None] = self.__dict__["_known"]
        prompt, first, second = (fields[name].strip() for name in ("prompt", "first", "second"))
        for key, to_second in (
            ((prompt, first, second), True),
            ((prompt, second, first), False),
            ((prompt, None, second), True),
            ((prompt, None, first), False),
        ):
            if key in known:
                share = known[key]
                if share is None:
                    return Answer(None, UNPARSABLE, "no preference recorded")
                return Answer(1 - share if to_second else share)
        return Answer(None, FAILED, "not in the file of annotations")

    def cost(self, questions: Sequence[Question]) -> Cost:
        """Nothing."""
        return Cost(len(questions), 0, 0, 0.0)
