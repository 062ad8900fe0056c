"""Graded scores in [0, 1]: paired t, checked by a cluster bootstrap, guarded where little changed."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from eval_harness.stats.binary import mcnemar, score_interval
from eval_harness.stats.clustered import Clusters, Estimate, Floats, largest_design_effect

DRAWS = 9999
FEW = 10  # below so many changed clusters neither t nor the bootstrap has seen what a change looks like


class Inference(NamedTuple):
    """One-sided p of a drop, and the interval whose ends are each exceeded with probability alpha."""

    p: float
    low: float
    high: float


def t_inference(estimate: Estimate, alpha: float) -> Inference:
    """Student's t; the standard error must be positive."""
    reach = float(stats.t.ppf(1 - alpha, estimate.df)) * estimate.stderr
    p = float(stats.t.cdf(estimate.mean / estimate.stderr, estimate.df))
    return Inference(p, estimate.mean - reach, estimate.mean + reach)


def bootstrap_means(values: Floats, clusters: Clusters, seed: int, draws: int = DRAWS) -> Floats:
    """Means over clusters drawn with replacement, [draws]."""
    totals, sizes = clusters.totals(values), clusters.sizes.astype(np.float64)
    rng, count = np.random.default_rng(seed), clusters.number
    means = []
    piece = max(1, 2_000_000 // count)  # bounds the memory of one block of draws
    for start in range(0, draws, piece):
        drawn = rng.integers(0, count, (min(piece, draws - start), count))
        means.append(totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)


def bootstrap_inference(means: Floats, alpha: float) -> Inference:
    """Percentile interval, and the share of draws without a drop."""
    low, high = np.quantile(means, [alpha, 1 - alpha])
    return Inference((1 + int((means >= 0).sum())) / (1 + len(means)), float(low), float(high))


def guard(values: Floats, clusters: Clusters, alpha: float) -> Inference:
    """What the signs alone say, every change taken as one of full size 1.

    With no change at all in n independent items the drop may still be z^2 / (n + z^2).
    """
    totals = clusters.totals(values)
    lost, gained = int((totals < 0).sum()), int((totals > 0).sum())
    size = len(values) / largest_design_effect(clusters)
    if lost + gained > size:
        return Inference(mcnemar(lost, gained), -1.0, 1.0)
    low, high = score_interval(lost, gained, size, float(stats.norm.ppf(1 - alpha)))
    return Inference(mcnemar(lost, gained), low, high)


def most_cautious(parts: list[Inference]) -> Inference:
    """The largest p and the widest interval."""
    return Inference(max(p.p for p in parts), min(p.low for p in parts), max(p.high for p in parts))


def infer(values: Floats, clusters: Clusters, estimate: Estimate, alpha: float, seed: int) -> Inference:
    """Paired t and bootstrap, whichever is more cautious; with few changes also the guard.

    Args:
      values: differences per item in [-1, 1], [items].
      clusters: of the same items, at least two.
      estimate: `clustered_mean` of both.
      alpha: one-sided level.
      seed: of the bootstrap.
    """
    parts = []
    if estimate.stderr > 0:
        parts = [t_inference(estimate, alpha)]
        parts.append(bootstrap_inference(bootstrap_means(values, clusters, seed), alpha))
    if np.count_nonzero(clusters.totals(values)) < FEW or math.isclose(estimate.stderr, 0.0):
        parts.append(guard(values, clusters, alpha))
    return most_cautious(parts)
