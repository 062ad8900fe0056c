"""Which policies go to the test: a pure function of the validation rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from study.rows import Row


class Choice(NamedTuple):
    """A beta and a step, the same for all seeds."""

    beta: float
    step: int


def select(rows: Sequence[Row], budget: float) -> dict[str, Choice]:
    """Per method the beta and step of the highest mean gain among those whose mean KL is within the budget.

    Args:
      rows: of ``preferences.sweep``; a beta and step counts where every seed has it.
      budget: nats of KL(policy || reference) on validation prompts.
    """
    groups: dict[tuple[str, float, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["method"], float(row["beta"]), int(row["step"])].append(row)
    seeds = {row["seed"] for row in rows}
    best: dict[str, tuple[float, Choice]] = {}
    for (method, beta, step), members in groups.items():
        # Every seed's policy was kept only where its own KL is within the largest budget.
        within = all(float(row["kl"]) <= budget for row in members)
        if {row["seed"] for row in members} != seeds or not within:
            continue
        gain = math.fsum(float(row["gain"]) for row in members) / len(members)
        if method not in best or gain > best[method][0]:
            best[method] = (gain, Choice(beta, step))
    return {method: choice for method, (_, choice) in best.items()}
