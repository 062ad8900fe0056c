"""Summaries that people judged: JSON Lines of document, summary, label and perhaps a graded score."""

import math
from pathlib import Path
from typing import NamedTuple

from eval_harness.errors import UserError
from eval_harness.files.rows import Row, read_rows, text_field

_FIELDS = "document, summary, label (1 faithful, 0 not); score, reference, source, id are optional"


class LabelledSummary(NamedTuple):
    """One summary; `score` is graded, larger is better, and equals the label where none is given."""

    document: str
    summary: str
    label: int
    score: float
    reference: str | None
    source: str
    name: str


def reference_of(row: Row, where: str) -> str | None:
    """The reference summary of a row, None where it has none. Raises UserError: no text."""
    return None if row.get("reference") is None else text_field(row, "reference", where, optional=True)


def read_labelled(path: Path) -> list[LabelledSummary]:
    """Read judged summaries. Raises UserError: a missing field, a label besides 0 and 1, one class only."""
    rows = [_labelled(row, f"{path.name}, row {number}") for number, row in enumerate(read_rows(path), 1)]
    count = sum(row.label for row in rows)
    if not 0 < count < len(rows):
        raise UserError(
            f"{path.name}: labels of one class only",
            got=f"{count} of {len(rows)} faithful",
            expected="faithful and unfaithful summaries",
        )
    return rows


def _labelled(row: Row, where: str) -> LabelledSummary:
    document, summary = (text_field(row, key, where, optional=True) for key in ("document", "summary"))
    label = row.get("label")
    if label not in (0, 1):
        raise UserError(where, got=f"label {label!r}", expected=_FIELDS)
    score = row.get("score")
    graded = float(label) if score is None else score
    if isinstance(graded, bool) or not isinstance(graded, int | float) or not math.isfinite(graded):
        raise UserError(where, got=f"score {score!r}", expected="a number, or no such field")
    source, name = str(row.get("source", "")), str(row.get("id", where))
    return LabelledSummary(
        document, summary, int(label), float(graded), reference_of(row, where), source, name
    )
