"""Reward at equal distance from the reference, from points along training runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from eval_harness.stats.clustered import clustered_mean, clusters_of, t_inference


class Point(NamedTuple):
    """KL(policy || reference) of samples in nats, and their mean reward."""

    kl: float
    reward: float


class Interval(NamedTuple):
    """A mean with its 95 % interval (nan where it is unknown), and the number of clusters behind it."""

    mean: float
    low: float
    high: float
    count: int


def within(points: Sequence[Point], budget: float) -> float:
    """Reward of a run that stops when it has spent its budget.

    Args:
      points: in the order of training, the reference itself (at 0 nats) first.
      budget: nats.

    Returns:
      Reward interpolated linearly where the run first passes the budget; a run that never does is taken at
      its end, because nothing forbids to stay below.
    """
    for before, after in itertools.pairwise(points):
        if before.kl <= budget < after.kl:
            part = (budget - before.kl) / (after.kl - before.kl)
            return before.reward + part * (after.reward - before.reward)
    return points[-1].reward


def interval(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Interval:
    """Mean with Student's 95 % interval.

    Args:
      values: independent repetitions (seeds), or items that belong to clusters.
      clusters: cluster of every item (prompts); without it every value is one of its own.
    """
    labels = clusters_of(range(len(values)) if clusters is None else clusters)
    estimate = clustered_mean(np.asarray(values, dtype=np.float64), labels)
    if not estimate.stderr > 0:  # one repetition, or no variation: nothing is known about the error
        return Interval(estimate.mean, math.nan, math.nan, labels.number)
    found = t_inference(estimate, 0.025)
    return Interval(estimate.mean, found.low, found.high, labels.number)
