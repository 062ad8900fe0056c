"""Two models on the same items: the difference, its interval and the p of a drop, by the fitting method."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from eval_harness.stats import tilting
from eval_harness.stats.binary import mcnemar, score_interval, sign_flip
from eval_harness.stats.clustered import (
    Clusters,
    Floats,
    Inference,
    clustered_mean,
    clusters_of,
    design_effect,
    effective_clusters,
    largest_design_effect,
)

MCNEMAR = "exact McNemar"
SIGN_FLIP = "exact sign flip by cluster"
TILTING = "nonparametric tilting"
NO_TEST = "none: a single cluster"
BETTING = "betting, valid at every look"  # stats.sequential


@dataclass(frozen=True)
class Paired:
    """Candidate minus baseline; positive is better.

    Of a metric that is better when smaller the gate turns the difference round and keeps the metric's means.

    `low` and `high` bound the difference, each with one-sided error alpha; the candidate is non-inferior at
    margin m when low > -m. `p` is the one-sided p of a drop, not adjusted. `lost` and `gained` count
    observations that got worse and better. `discordance` is the mean squared difference, `variance` that of
    one observation. `effective` is the number of equal clusters that say as much as these when the items of a
    cluster move together; 0 in reports written before it was recorded.
    """

    n: int
    clusters: int
    baseline: float
    candidate: float
    difference: float
    stderr: float
    low: float
    high: float
    p: float
    method: str
    lost: int
    gained: int
    discordance: float
    variance: float
    design_effect: float
    effective: float = 0.0


def paired(
    candidate: Sequence[float],
    baseline: Sequence[float],
    clusters: Sequence[Hashable],
    alpha: float,
) -> Paired:
    """Compare two models observation by observation.

    Args:
      candidate: scores in [0, 1], larger is better, [observations].
      baseline: of the same observations in the same order.
      clusters: equal for observations that may depend on each other.
      alpha: one-sided level, in (0, 0.5).

    Raises:
      ValueError: no observations, lengths differ, or a score outside [0, 1].
    """
    ours, theirs = np.asarray(candidate, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if not len(ours) == len(theirs) == len(clusters) or not len(ours):
        raise ValueError(f"got {len(ours)}, {len(theirs)} and {len(clusters)} observations, expected as many")
    both = np.concatenate([ours, theirs])
    if not bool(((both >= 0) & (both <= 1)).all()):
        raise ValueError(f"got scores from {both.min()} to {both.max()}, expected numbers in [0, 1]")
    values, groups = ours - theirs, clusters_of(clusters)
    estimate, effect = clustered_mean(values, groups), design_effect(values, groups)
    if groups.number < 2:
        method, test, effect = NO_TEST, Inference(1.0, -1.0, 1.0), largest_design_effect(groups)
    elif bool(np.isin(both, (0.0, 1.0)).all()):
        method = MCNEMAR if groups.single else SIGN_FLIP
        test = _single(values, alpha) if groups.single else _clustered(values, groups, alpha)
    else:
        method, test = TILTING, tilting.infer(values, groups, _room(theirs), alpha)
    return Paired(
        n=len(values),
        clusters=groups.number,
        baseline=float(theirs.mean()),
        candidate=float(ours.mean()),
        difference=estimate.mean,
        stderr=0.0 if math.isnan(estimate.stderr) else estimate.stderr,
        low=max(-1.0, test.low),
        high=min(1.0, test.high),
        p=test.p,
        method=method,
        lost=int((values < 0).sum()),
        gained=int((values > 0).sum()),
        discordance=float(np.square(values).mean()),
        variance=float(values.var()),
        design_effect=effect,
        effective=effective_clusters(groups.sizes),
    )


def _single(values: Floats, alpha: float) -> Inference:
    """Right or wrong, every item for itself: exact test of a drop, Tango's interval."""
    lost, gained = int((values < 0).sum()), int((values > 0).sum())
    low, high = score_interval(lost, gained, len(values), float(stats.norm.ppf(1 - alpha)))
    return Inference(mcnemar(lost, gained), low, high)


def _room(baseline: Floats) -> tuple[float, float]:
    """How far an item that was not seen may fall, and rise: 1, but for a baseline that is one constant.

    A constant is no sample: it is the 0.5 of a win rate, and nothing scores above or below it.
    """
    level = float(baseline[0])
    constant = 0 < level < 1 and bool((baseline == level).all())
    return (level, 1 - level) if constant else (1.0, 1.0)


def _clustered(values: Floats, groups: Clusters, alpha: float) -> Inference:
    """Right or wrong in clusters: exact test of a drop by sign flip, interval by tilting."""
    totals = groups.totals(values)
    return tilting.infer(values, groups, (1.0, 1.0), alpha)._replace(p=sign_flip(totals))
