"""Summaries that people judged: JSON Lines of document, summary, label and perhaps a graded score."""

import gzip
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from eval_harness.errors import UserError

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


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON Lines file, plain or gzipped.

    Raises:
      UserError: no such file, not JSON, a line that is no object, no line at all.
    """
    if not path.is_file():
        raise UserError("no such data file", got=path, expected="a .jsonl or .jsonl.gz file")
    rows: list[dict[str, Any]] = []
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as handle:
            for number, line in enumerate(handle, 1):  # noqa: B007 - named in the message
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"a {type(row).__name__}")
                    rows.append(row)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(
            "unreadable data",
            got=f"{path.name}, line {number or 1}: {error}",
            expected="one JSON object a line",
        ) from error
    if not rows:
        raise UserError("empty data file", got=path.name, expected="at least one line")
    return rows


def text_field(row: dict[str, Any], key: str, where: str) -> str:
    """A field that must be a text. Raises UserError naming file and line."""
    value = row.get(key)
    if not isinstance(value, str):
        got = f"{key} is {type(value).__name__}" if key in row else f"fields {', '.join(sorted(row))}"
        raise UserError(where, got=got, expected=f"a field `{key}` with a text")
    return value


def read_labelled(path: Path) -> list[LabelledSummary]:
    """Read judged summaries. Raises UserError: a missing field, a label besides 0 and 1, one class only."""
    found = [_rated(row, f"{path.name}, row {number}") for number, row in enumerate(read_rows(path), 1)]
    count = sum(row.label for row in found)
    if not 0 < count < len(found):
        raise UserError(
            f"{path.name}: labels of one class only",
            got=f"{count} of {len(found)} faithful",
            expected="faithful and unfaithful summaries",
        )
    return found


def _rated(row: dict[str, Any], where: str) -> LabelledSummary:
    document, summary = text_field(row, "document", where), text_field(row, "summary", where)
    label = row.get("label")
    if label not in (0, 1):
        raise UserError(where, got=f"label {label!r}", expected=_FIELDS)
    score = row.get("score")
    graded = float(label) if score is None else score
    if isinstance(graded, bool) or not isinstance(graded, int | float) or not math.isfinite(graded):
        raise UserError(where, got=f"score {score!r}", expected="a number, or no such field")
    reference = text_field(row, "reference", where) if row.get("reference") is not None else None
    source = str(row.get("source", ""))
    return LabelledSummary(
        document, summary, int(label), float(graded), reference, source, str(row.get("id", where))
    )
