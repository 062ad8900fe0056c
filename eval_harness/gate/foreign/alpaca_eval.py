"""Annotation files of alpaca_eval: `preference` between the outputs of a reference and of a model.

1 says that output 1 is better, 2 that output 2 is; numbers between are weights, 1.5 (in old files 0) a tie.
alpaca_eval gives the reference as output 1 and the model as output 2 and has undone the order in which its
judge saw them. Source: alpaca_eval 0.6.6, pairwise annotators and metrics/winrate.py.
"""

from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.files.rows import Row, read_rows
from eval_harness.gate.foreign.results import ForeignItem, ForeignRun, cluster_of, mean_score, once, sha

NAME = "alpaca_eval"
METRIC = "preference,none"
MAX_UNJUDGED = 0.02
_NEEDED = ("instruction", "generator_1", "generator_2", "preference")


def is_mine(path: Path, head: Any) -> bool:
    """Rows with a preference."""
    return isinstance(head, dict) and "preference" in head


def read(path: Path, cluster: str | None) -> ForeignRun:
    """Read annotations of one model against one reference by one annotator.

    Raises:
      UserError: a missing field, several models, references or annotators, an instruction twice.
    """
    rows = read_rows(path)
    for number, row in enumerate(rows, 1):
        if missing := [key for key in _NEEDED if key not in row]:
            raise UserError(
                f"{path.name}, row {number}: missing field", got=", ".join(row), expected=missing[0]
            )
    names = {key: _only(rows, key, path) for key in ("generator_1", "generator_2", "annotator")}
    seen: set[Any] = set()
    items = []
    for number, row in enumerate(rows, 1):
        name = str(row["instruction"])
        once(seen, name, path, f"row {number}, {name[:60]!r}")
        items.append(_item(row, name, f"{path.name}, row {number}", cluster))
    return ForeignRun(
        NAME,
        path,
        names["generator_2"],
        items,
        (mean_score(NAME, METRIC, items, main=True, judged=True),),
        asked={"reference (generator_1)": names["generator_1"], "annotator": names["annotator"]},
        max_unjudged=MAX_UNJUDGED,
    )


def _only(rows: list[Row], key: str, path: Path) -> str:
    values = sorted({str(row.get(key, "")) for row in rows})
    if len(values) > 1:
        raise UserError(
            f"{path.name} mixes several evaluations",
            got=f"{key}: {', '.join(values[:3])}",
            expected="one model, one reference, one annotator a file",
        )
    return values[0]


def _item(row: Row, name: str, where: str, cluster: str | None) -> ForeignItem:
    # Which output was the reference's is no part of the question, but its text is.
    asked = [name, row.get("output_1"), row.get("dataset")]
    return ForeignItem(
        NAME,
        sha(name)[:16],
        {METRIC: _score(row["preference"], where)},
        prompt=name,
        prompt_hash=sha(name),
        doc_hash=sha(asked),
        outputs=[str(row["output_2"])] if "output_2" in row else [],
        cluster=cluster_of(row, cluster, where),
    )


def _score(preference: Any, where: str) -> float | None:
    """How far the model's output is preferred, in [0, 1]; None where the annotator gave nothing."""
    if preference is None or preference != preference:
        return None
    number = isinstance(preference, int | float) and not isinstance(preference, bool)
    if not number or not (preference == 0 or 1 <= preference <= 2):
        raise UserError(f"{where}: preference", got=preference, expected="a number from 1 to 2, or null")
    return 0.5 if preference == 0 else float(preference) - 1.0
