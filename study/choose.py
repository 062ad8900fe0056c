"""Choose settings from validation rows: pure functions of the CSV."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from study import frontier
from study.rows import Row


class Setting(NamedTuple):
    """What is fixed before the test data are looked at."""

    rate: float
    tried: Mapping[str, Any]


def curve(rows: Sequence[Row], references: Sequence[Row], column: str = "reward") -> list[frontier.Point]:
    """Points of one run on one split, led by the reference on the same prompts and random numbers."""
    seed, split = rows[0]["seed"], rows[0]["split"]
    start = next(row for row in references if row["seed"] == seed and row["split"] == split)
    ordered = sorted(rows, key=lambda row: int(row["step"]))
    return [frontier.Point(float(row["kl"]), float(row[column])) for row in (start, *ordered)]


def chosen(rows: Sequence[Row], references: Sequence[Row], budget: float) -> dict[str, Setting]:
    """Per method the setting with the highest validation reward within a budget of nats."""
    runs: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        runs[row["method"], row["rate"], row["tried"]].append(row)
    best: dict[str, tuple[float, Setting]] = {}
    for (method, rate, tried), members in runs.items():
        value = frontier.within(curve(members, references), budget)
        if method not in best or value > best[method][0]:
            best[method] = (value, Setting(float(rate), json.loads(tried)))
    return {method: setting for method, (_, setting) in best.items()}
