"""metrics.jsonl: one line per training step and per evaluation, every metric by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.run_folder import lines
from sparsepo_plugin.types import Split

FILE = "metrics.jsonl"


def append(folder: Path, step: int, split: Split, values: dict[str, Any]) -> None:
    """Append a line: step, split, every metric (null where not a finite number)."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    lines.append(folder / FILE, {"step": step, "split": split, **finite})


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows by split, in order of steps; of a step written twice (resumed) the last.

    Raises:
      UserError: no such file, or one of another form.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder}: got no {FILE}, expected the output folder of a training")
    by_split: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "eval": {}}
    for number, row in lines.json_lines(path):
        split, step = row.get("split"), row.get("step")
        if split not in by_split or not isinstance(step, int):
            raise UserError(
                f"{path} line {number}: got split {split!r} and step {step!r}, expected train or eval and a "
                "number; it is no metrics.jsonl of a training"
            )
        by_split[split][step] = row
    if not any(by_split.values()):
        raise UserError(f"{path}: got no steps, expected at least one; has the training begun?")
    return {split: [rows[step] for step in sorted(rows)] for split, rows in by_split.items()}
