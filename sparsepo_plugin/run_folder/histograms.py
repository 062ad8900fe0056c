"""mask_histograms.jsonl: how the mask values of the recorded pairs are spread, one line per evaluation."""

from __future__ import annotations

import bisect
from pathlib import Path
from typing import Any

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.run_folder import lines

FILE = "mask_histograms.jsonl"
# Edges of the bins: eight a decade. Values below the first or from the last on are counted too.
EDGES = tuple(round(10 ** (exponent / 8), 9) for exponent in range(-24, 9))
_MASKS = ("reward_mask", "kl_mask")


def append(folder: Path, head: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Count the mask values of an evaluation's responses.

    Args:
      folder: output folder of the run.
      head: schema_version and step.
      rows: responses, as tokens.jsonl has them.
    """
    counted = {name: _count([row[name] for row in rows]) for name in _MASKS}
    lines.append(folder / FILE, {**head, "edges": EDGES, **counted})


def _count(rows: list[list[float] | None]) -> dict[str, Any] | None:
    """Count values that are exactly 0, and the others below the first edge, in every bin, above the last."""
    if not rows or rows[0] is None:
        return None
    counts, zeros = [0] * (len(EDGES) + 1), 0
    for value in (value for row in rows for value in row or ()):
        if value == 0:
            zeros += 1
        else:
            counts[bisect.bisect_right(EDGES, value)] += 1
    return {"zeros": zeros, "counts": counts}


def read(folder: Path) -> list[dict[str, Any]]:
    """Rows in order of steps; empty where nothing was recorded."""
    path = folder / FILE
    if not path.is_file():
        return []
    rows = {row.get("step", number): row for number, row in lines.json_lines(path)}
    for row in rows.values():
        if not {"step", "edges", *_MASKS} <= set(row):
            raise UserError(f"{path}: got keys {', '.join(sorted(row))}, expected step, edges and both masks")
    return [rows[step] for step in sorted(rows)]
