"""Mean and standard error of differences whose items come in clusters."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


class Clusters(NamedTuple):
    """Code of every item's cluster, [items], in 0..number-1; `sizes` counts its items, [number]."""

    codes: Codes
    sizes: Codes

    @property
    def number(self) -> int:
        """Number of clusters."""
        return len(self.sizes)

    @property
    def single(self) -> bool:
        """Whether every item is a cluster of its own."""
        return len(self.codes) == len(self.sizes)

    def totals(self, values: Floats) -> Floats:
        """Sum of values per cluster, [number]."""
        return np.bincount(self.codes, weights=values, minlength=self.number).astype(np.float64)


def clusters_of(labels: Sequence[Hashable]) -> Clusters:
    """Number cluster labels in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)
    return Clusters(codes, np.bincount(codes, minlength=len(numbers)).astype(np.int64))


class Estimate(NamedTuple):
    """Mean, its standard error, and the degrees of freedom of t; the error is nan with one cluster."""

    mean: float
    stderr: float
    df: int


def clustered_mean(values: Floats, clusters: Clusters) -> Estimate:
    """Mean with a standard error that lets items of one cluster depend on each other in any way.

    Equation: SE = sqrt(sum_g (sum_{i in g} (d_i - mean))^2) / n * sqrt(G / (G - 1)), t with G - 1 degrees of
    freedom. With clusters of one item this is sd(ddof=1) / sqrt(n).

    Args:
      values: differences per item, [items].
      clusters: of the same items.
    Source: Miller 2024, arXiv 2411.00640, with the factor G / (G - 1) of a mean of clusters.
    """
    mean = float(values.mean())
    count = clusters.number
    if count < 2:
        return Estimate(mean, math.nan, 0)
    spread = float(np.square(clusters.totals(values - mean)).sum())
    return Estimate(mean, math.sqrt(spread * count / (count - 1)) / len(values), count - 1)


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


def effective_clusters(sizes: Codes) -> float:
    """Clusters of one size that would say as much as these, where items of a cluster move together.

    Equation: (sum_g n_g)^2 / sum_g n_g^2; the number of clusters when all are equal, at least 1.
    Source: Kish 1965, Survey Sampling.
    """
    return float(sizes.sum()) ** 2 / float(np.square(sizes, dtype=np.float64).sum())


def largest_design_effect(clusters: Clusters) -> float:
    """Design effect of clusters whose items all move together: sum_g n_g^2 / n."""
    return len(clusters.codes) / effective_clusters(clusters.sizes)


def design_effect(values: Floats, clusters: Clusters) -> float:
    """How many times the variance of the mean exceeds that of as many independent items, at least 1.

    Without any variance in the sample nothing is known about the dependence: the largest value is assumed.
    """
    if clusters.single:
        return 1.0
    independent = float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
    if independent == 0.0 or clusters.number < 2:
        return largest_design_effect(clusters)
    return max(1.0, clustered_mean(values, clusters).stderr ** 2 / independent)
