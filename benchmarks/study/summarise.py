"""From the sweep's rows to one row per method and budget: pure functions of the CSV files."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.study.choose import curve
from benchmarks.study.frontier import Interval, interval, within
from benchmarks.study.methods import BASELINE
from benchmarks.study.rows import Row, number

ANCHORED = "dpo + anchor"
Runs = dict[tuple[str, str, str], list[Row]]


def runs(rows: Iterable[Row], split: str) -> Runs:
    """Rows of one split by method, beta and seed."""
    found: Runs = defaultdict(list)
    for row in rows:
        if row["split"] == split:
            found[row["method"], row["beta"], row["seed"]].append(row)
    return dict(found)


def common_seeds(rows: Sequence[Row]) -> list[str]:
    """Seeds that every method finished with every beta; an interrupted sweep compares like with like."""
    members: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in rows:
        members[row["seed"]].add((row["method"], row["beta"]))
    whole = set.union(*members.values()) if members else set()
    return sorted(seed for seed, found in members.items() if found == whole)


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
    seeds = common_seeds(sweep)
    kept = [row for row in sweep if row["seed"] in seeds]
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


def weight_rows(sweep: Sequence[Row]) -> list[dict[str, Any]]:
    """Per method and beta: sparsity, what the weights find, accuracies, with intervals over seeds."""
    seeds = common_seeds(sweep)
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in sweep:
        if row["seed"] in seeds and number(row, "accuracy") is not None:
            groups[row["method"], row["beta"]].append(row)
    found = []
    for (method, beta), rows in groups.items():
        row: dict[str, Any] = {"method": method, "beta": beta, "seeds": len(rows)}
        row["sampled_kl"] = math.fsum(float(r["kl"]) for r in rows) / len(rows)
        base = {
            r["seed"]: number(r, "ratio_auc")
            for r in sweep
            if r["method"] == BASELINE and r["beta"] == beta and number(r, "accuracy") is not None
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


def across(rows: Sequence[Row], methods: Sequence[str], column: str) -> Interval:
    """A column of the last rows over several methods and all betas: mean per seed, then over seeds."""
    by_seed: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        value = number(row, column)
        if row["method"] in methods and row["split"] == "test" and value is not None:
            by_seed[row["seed"]].append(value)
    seeds = common_seeds(rows)
    return interval([math.fsum(by_seed[seed]) / len(by_seed[seed]) for seed in seeds])
