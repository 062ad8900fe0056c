"""From the rows to one line per method: the registered choice of beta, the differences and the verdict."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval_harness.stats.clustered import clustered_mean, clusters_of, t_inference
from sparsepo_plugin.errors import UserError
from study import frontier
from study.on_methods.plan import COMPARED, LEVEL, METHODS, REFERENCE, Sizes
from study.rows import Row, read

AHEAD, BEHIND, OPEN = "ahead", "behind", "cannot be told"
COLUMNS = ("method", "beta", "seed", "split", "step", "kl", "reward", "check", "blocks")
NUMBERS = ("beta", "seed", "step", "kl", "reward", "check")
Vector = tuple[float, ...]
Floats = NDArray[np.float64]


class Range(NamedTuple):
    """Ends of an interval; nan where there is none."""

    low: float
    high: float


class Line(NamedTuple):
    """What the page says of a method.

    Attributes:
      method, beta: as in the CSV; beta is empty where no setting came as far as the budget on every seed.
      values: test reward at the budget, by seed.
      check: the same of the second classifier.
      difference: mean over seeds of the reward less that of ``against``; nan without one.
      seeds, prompts: its intervals over seeds and over blocks of prompts.
      verdict: one of AHEAD, BEHIND, OPEN; empty for the method that all are compared with.
    """

    method: str
    beta: str
    values: Vector
    check: Vector
    difference: float
    seeds: Range
    prompts: Range
    verdict: str


NOTHING = Range(math.nan, math.nan)


def load(path: Path) -> list[Row]:
    """Rows of the CSV; none where there is no file.

    Raises:
      UserError: it is not this study's, or damaged.
    """
    rows = read(path)
    # A row that was cut off lacks what stands behind the cut.
    every = dict.fromkeys((*COLUMNS, *(rows[0] if rows else ())))
    if rows and (lacking := [name for name in every if any(row.get(name) is None for row in rows)]):
        raise UserError(
            f"{path}: got rows without {', '.join(lacking)}, expected a CSV of python -m study.on_methods; "
            "name another file or remove this one"
        )
    for number, row in enumerate(rows, 2):
        words = [*(row[name] for name in NUMBERS), *row["blocks"].split()]
        if wrong := [word for word in words if not _is_number(word)]:
            raise UserError(
                f"{path}: line {number}: got {wrong[0]!r}, expected a number; "
                "remove the lines of this method, beta and seed, and they are run again"
            )
    return rows


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def missing(rows: Sequence[Row], sizes: Sizes) -> list[tuple[str, float, int]]:
    """Runs that have no rows, as ``Sizes.points``."""
    done = {(row["method"], float(row["beta"]), int(row["seed"])) for row in rows}
    return [point for point in sizes.points() if point not in done]


def curve(rows: Sequence[Row], method: str, beta: str, seed: str, split: str) -> list[Row]:
    """Rows of one run on one split, in the order of training, led by the reference's."""
    mine = [
        row
        for row in rows
        if (row["seed"], row["split"]) == (seed, split)
        and (row["method"] == REFERENCE or (row["method"], row["beta"]) == (method, beta))
    ]
    return sorted(mine, key=lambda row: int(row["step"]))


def at(points: Sequence[Row], budget: float, column: str) -> Floats | None:
    """A column where the run first passes the budget, interpolated linearly in the KL; None: it never does.

    ``blocks`` gives [blocks], every other column [1].
    """
    for before, after in itertools.pairwise(points):
        low, high = float(before["kl"]), float(after["kl"])
        if low <= budget < high:
            part = (budget - low) / (high - low)
            first, second = (np.array(row[column].split(), dtype=np.float64) for row in (before, after))
            return first + part * (second - first)
    return None


def reached(
    rows: Sequence[Row], method: str, beta: str, sizes: Sizes, split: str, budget: float, column: str
) -> Floats | None:
    """The column at the budget of every seed, [seeds, n]; None where a seed did not come so far."""
    found = [at(curve(rows, method, beta, str(s), split), budget, column) for s in sizes.seeds]
    known = [value for value in found if value is not None]
    return np.stack(known) if len(known) == len(found) else None


def chosen(rows: Sequence[Row], method: str, sizes: Sizes, budget: float) -> str:
    """The beta with the highest validation reward at the budget, of those that came so far on every seed."""
    means: dict[str, float] = {}
    for beta in METHODS[method].betas:
        values = reached(rows, method, f"{beta:g}", sizes, "validation", budget, "reward")
        if values is not None:
            means[f"{beta:g}"] = float(values.mean())
    return max(means, key=means.__getitem__, default="")


def judged(rows: Sequence[Row], method: str, sizes: Sizes) -> Line:
    """The line of a method."""
    against, budget = METHODS[method].against, METHODS[method].budget
    beta = chosen(rows, method, sizes, budget)
    mine = blocks_of(rows, method, beta, sizes, budget)
    check = reached(rows, method, beta, sizes, "test", budget, "check") if beta else None
    verdict = OPEN if against else ""
    if mine is None or check is None:
        return Line(method, "", (), (), math.nan, NOTHING, NOTHING, verdict)
    line = Line(method, beta, _means(mine), _means(check), math.nan, NOTHING, NOTHING, verdict)
    base = blocks_of(rows, against, chosen(rows, against, sizes, budget), sizes, budget) if against else None
    if base is None:
        return line
    return compared(line, mine - base)


def blocks_of(rows: Sequence[Row], method: str, beta: str, sizes: Sizes, budget: float) -> Floats | None:
    """Test reward at the budget by seed and block of prompts, [seeds, blocks]; None: a seed fell short."""
    return reached(rows, method, beta, sizes, "test", budget, "blocks") if beta else None


def compared(line: Line, gap: Floats) -> Line:
    """The line with its verdict.

    Args:
      line: without.
      gap: differences of the reward, paired by seed and block of prompts, [seeds, blocks].
    """
    by_seed = frontier.interval(gap.mean(1).tolist())
    seeds = Range(by_seed.low, by_seed.high)
    estimate = clustered_mean(gap.mean(0), clusters_of(range(gap.shape[1])))
    prompts = NOTHING
    if estimate.stderr > 0:
        found = t_inference(estimate, LEVEL / len(COMPARED) / 2)
        prompts = Range(found.low, found.high)
    verdict = OPEN
    if min(seeds.low, prompts.low) > 0:
        verdict = AHEAD
    elif max(seeds.high, prompts.high) < 0:
        verdict = BEHIND
    return line._replace(difference=by_seed.mean, seeds=seeds, prompts=prompts, verdict=verdict)


def _means(values: Floats) -> Vector:
    return tuple(float(value) for value in values.mean(1))


def lines(rows: Sequence[Row], sizes: Sizes) -> list[Line]:
    """One per method, once every run is there."""
    return [] if missing(rows, sizes) or not rows else [judged(rows, name, sizes) for name in sizes.methods]


def shown(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    if not values:
        return ""
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
