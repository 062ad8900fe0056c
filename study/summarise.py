"""From the sweep's rows to one row per method and budget: pure functions of the CSV files."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from study.choose import curve
from study.frontier import Interval, interval, within
from study.methods import BASELINE
from study.rows import Row, number

ANCHORED = "dpo + anchor"
Runs = dict[tuple[str, str, str], list[Row]]


def runs(rows: Iterable[Row], split: str) -> Runs:
    """Rows of one split by method, beta and seed."""
    found: Runs = defaultdict(list)
    for row in rows:
        if row["split"] == split:
            found[row["method"], row["beta"], row["seed"]].append(row)
    return dict(found)


class Whole(NamedTuple):
    """The part of a sweep that compares like with like: every method has its betas with every seed."""

    seeds: list[str]
    rows: list[Row]


LEAST_BETAS = 2


def whole(rows: Sequence[Row]) -> Whole:
    """The largest number of seeds with which every method finished at least LEAST_BETAS betas.

    Of a finished sweep that is all of it. Of an interrupted one only those runs of a method are kept whose
    beta all of these seeds have, so that no method chooses among runs that another seed lacks.
    """
    done: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        done[row["method"]][row["beta"]].add(row["seed"])
    every = sorted({row["seed"] for row in rows})
    for count in range(len(every), 0, -1):
        for seeds in itertools.combinations(every, count):
            kept = {m: {b for b, found in betas.items() if found >= set(seeds)} for m, betas in done.items()}
            if min(map(len, kept.values())) >= min(LEAST_BETAS, max(map(len, done.values()))):
                mine = [r for r in rows if r["seed"] in seeds and r["beta"] in kept[r["method"]]]
                return Whole(list(seeds), mine)
    return Whole([], [])


def best_beta(some: Runs, references: Sequence[Row], method: str, budget: float) -> str:
    """The beta of the highest mean reward within the budget; ``some`` are runs on validation prompts."""
    values: dict[str, list[float]] = defaultdict(list)
    for (name, beta, _), rows in some.items():
        if name == method:
            values[beta].append(within(curve(rows, references), budget))
    return max(values, key=lambda beta: math.fsum(values[beta]) / len(values[beta]))


def at_budget(
    some: Runs, references: Sequence[Row], method: str, beta: str, budget: float, column: str
) -> dict[str, float]:
    """Value of a column within the budget, by seed."""
    return {
        seed: within(curve(rows, references, column), budget)
        for (name, at, seed), rows in some.items()
        if name == method and at == beta
    }


def columns(prefix: str, found: Interval) -> dict[str, Any]:
    """An interval as columns of a row."""
    return {prefix: found.mean, f"{prefix}_low": found.low, f"{prefix}_high": found.high}


def frontier_rows(
    sweep: Sequence[Row], references: Sequence[Row], budgets: Sequence[float]
) -> list[dict[str, Any]]:
    """Per budget and method: beta chosen on validation, then the test's reward, check and differences.

    Differences are paired by seed: the runs of a seed share pairs, order of pairs and random numbers.
    """
    seeds, kept = whole(sweep)
    validation, test = runs(kept, "validation"), runs(kept, "test")
    methods = list(dict.fromkeys(row["method"] for row in kept))
    found = []
    for budget in budgets:
        beta = {name: best_beta(validation, references, name, budget) for name in methods}
        value = {
            column: {name: at_budget(test, references, name, beta[name], budget, column) for name in methods}
            for column in ("reward", "check")
        }
        for name in methods:
            ends = [max(float(r["kl"]) for r in test[name, beta[name], seed]) for seed in seeds]
            row: dict[str, Any] = {"budget": budget, "method": name, "beta": beta[name], "seeds": len(seeds)}
            row["betas"] = len({at for method, at, _ in test if method == name})
            row["spent"] = math.fsum(min(budget, end) for end in ends) / len(ends)
            for column, by_method in value.items():
                row |= columns(column, interval([by_method[name][seed] for seed in seeds]))
                for against in (BASELINE, ANCHORED, "tdpo1"):
                    if name != against and against in methods:
                        gap = [by_method[name][seed] - by_method[against][seed] for seed in seeds]
                        row |= columns(f"{column}_over_{against.replace(' + ', '_')}", interval(gap))
            found.append(row)
    return found


WEIGHTS = ("sparsity", "kl_sparsity", "mask_auc", "ratio_auc", "accuracy", "accuracy_unmasked")


def weight_rows(sweep: Sequence[Row], by: str = "beta") -> list[dict[str, Any]]:
    """Per method and beta (or ``by``): sparsity, what the weights find, accuracies; intervals over seeds."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in sweep:
        if number(row, "accuracy") is not None:
            groups[row["method"], row[by]].append(row)
    found = []
    for (method, place), rows in groups.items():
        row: dict[str, Any] = {"method": method, by: place, "seeds": len(rows)}
        row["sampled_kl"] = math.fsum(float(r["kl"]) for r in rows) / len(rows)
        base = {
            r["seed"]: number(r, "ratio_auc")
            for r in sweep
            if r["method"] == BASELINE and r[by] == place and number(r, "accuracy") is not None
        }
        gaps = [
            auc - ratio
            for r in rows
            if (auc := number(r, "mask_auc")) is not None and (ratio := base.get(r["seed"])) is not None
        ]
        if gaps:
            row |= columns("mask_over_ratio", interval(gaps))
        for name in WEIGHTS:
            values = [value for r in rows if (value := number(r, name)) is not None]
            if values:
                row |= columns(name, interval(values))
        found.append(row)
    return found
