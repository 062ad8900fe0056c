"""The registered analysis: outcomes within a budget, paired by prompt, Holm over the comparisons."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval_harness.stats.multiple import holm
from study.frontier import Point as Spot
from study.frontier import interval, within
from study.on_smollm2.domains import Room
from study.on_smollm2.plan import COMPARED, FULL
from study.on_smollm2.runs import Items, of_start
from study.on_smollm2.sweep import at_start, items_of, outcomes
from study.rows import Row

Values = NDArray[np.float64]


def within_budget(kls: Sequence[float], values: Sequence[Values], budget: float) -> Values:
    """Outcomes of every sample when a run stops as its budget is spent.

    Args:
      kls: mean KL at every point of a run, the start first, nats.
      values: outcomes at the same points, each [samples].
      budget: nats.

    Returns:
      [samples]: interpolated between the two points between which the mean KL passes the budget; the last
      point's where it never does. The mean over samples equals frontier.within of the means.
    """
    for place in range(1, len(kls)):
        if kls[place - 1] <= budget < kls[place]:
            part = (budget - kls[place - 1]) / (kls[place] - kls[place - 1])
            return values[place - 1] + part * (values[place] - values[place - 1])
    return values[-1]


def best_betas(room: Room, validation: Sequence[Row], budget: float) -> dict[str, str]:
    """Per method the beta with the highest mean over seeds, of betas that every seed finished."""
    runs: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in validation:
        if row["domain"] == room.name:
            runs[row["method"], row["beta"]][row["seed"]].append(row)
    best: dict[str, tuple[float, str]] = {}
    for (method, beta), seeds in runs.items():
        if set(seeds) != {str(seed) for seed in room.scale.seeds}:
            continue
        found = [
            within([Spot(0.0, at_start(room, "validation", int(seed))), *_spots(some)], budget)
            for seed, some in seeds.items()
        ]
        value = math.fsum(found) / len(found)
        if method not in best or value > best[method][0]:
            best[method] = (value, beta)
    return {method: beta for method, (_, beta) in best.items()}


def _spots(some: Sequence[Row]) -> list[Spot]:
    ordered = sorted(some, key=lambda row: int(row["step"]))
    return [Spot(float(row["kl"]), float(row["outcome"])) for row in ordered]


def of_method(room: Room, test: Sequence[Row], method: str, beta: str, budget: float) -> Values:
    """Test outcomes within the budget, [seeds, samples]."""
    found = []
    for seed in room.scale.seeds:
        some = [
            row
            for row in test
            if (row["domain"], row["method"], row["beta"], row["seed"])
            == (room.name, method, beta, str(seed))
        ]
        steps = sorted(int(row["step"]) for row in some)
        start: Items = of_start(room, "test", seed)
        points = [start, *items_of(room.work, some[0]["run"], "test", steps)]
        kls = [0.0, *(math.fsum(one["kl"]) / len(one["kl"]) for one in points[1:])]
        values = [np.asarray(outcomes(room.name, one, start)) for one in points]
        found.append(within_budget(kls, values, budget))
    return np.stack(found)


class Compared(NamedTuple):
    """A comparison: mean difference with its 95 % interval, two-sided p, and the means of the seeds."""

    mean: float
    low: float
    high: float
    p: float
    seeds: tuple[float, ...]


def compare(ours: Values, theirs: Values, prompts: Sequence[str]) -> Compared:
    """Differences averaged over seeds, clustered by prompt; all [seeds, samples] and [samples]."""
    from scipy import stats

    gap = (ours - theirs).mean(0)
    found = interval(gap.tolist(), list(prompts))
    seeds = tuple(float(value) for value in (ours - theirs).mean(1))
    if math.isnan(found.low):  # nothing differs, or a single prompt
        return Compared(found.mean, found.low, found.high, 1.0, seeds)
    freedom = found.count - 1
    error = (found.high - found.mean) / float(stats.t.ppf(0.975, freedom))
    p = 2 * float(stats.t.sf(abs(found.mean) / error, freedom))
    return Compared(found.mean, found.low, found.high, p, seeds)


def verdict(found: Compared) -> str:
    """As registered: interval and every seed on one side."""
    if found.low > 0 and min(found.seeds) > 0:
        return "holds"
    if found.high < 0 and max(found.seeds) < 0:
        return "does not hold"
    return "cannot be told"


def frontier(room: Room, validation: Sequence[Row], test: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of methods (against nothing) and of comparisons, by budget; p is not yet corrected."""
    prompts = room.prompts["test"] * room.scale.draws
    found: list[dict[str, Any]] = []
    for budget in room.scale.budgets:
        beta = best_betas(room, validation, budget)
        value = {name: of_method(room, test, name, beta[name], budget) for name in beta}
        about = {"domain": room.name, "budget": budget, "primary": budget == room.scale.budgets[-1]}
        for name, values in value.items():
            mean = interval(values.mean(0).tolist(), prompts)
            row = {**about, "method": name, "beta": beta[name], "against": ""}
            found.append({**row, "mean": mean.mean, "low": mean.low, "high": mean.high})
        for name, other in COMPARED:
            if name in value and other in value:
                one = compare(value[name], value[other], prompts)
                row = {**about, "method": name, "beta": beta[name], "against": other}
                row |= {"mean": one.mean, "low": one.low, "high": one.high, "p": one.p}
                ends = {"least_seed": min(one.seeds), "most_seed": max(one.seeds)}
                found.append({**row, **ends, "verdict": verdict(one)})
    return found


def corrected(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Holm over the registered comparisons of all domains; a corrected p above .05 takes a verdict back.

    Comparisons without rows yet count as p = 1, so that what is reported early is never corrected for less.
    """
    primary = [row for row in found if row["primary"] and row["against"]]
    missing = max(0, len(COMPARED) * len(FULL) - len(primary))
    for row, p in zip(primary, holm([row["p"] for row in primary] + [1.0] * missing)):
        row["p_holm"] = p
        row["corrected"] = row["verdict"] if p <= 0.05 else "cannot be told"
    return list(found)


def write_frontier(path: Path, found: Sequence[dict[str, Any]]) -> None:
    """The CSV that verdicts are read from."""
    from study.rows import show, write

    names = list(dict.fromkeys(name for row in found for name in row))
    write(path, [{name: show(value) for name, value in row.items()} for row in found], names)
