"""Reward at equal distance from the reference, from points along training runs."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Point(NamedTuple):
    """KL(policy || reference) of samples in nats, and their mean reward."""

    kl: float
    reward: float


class Interval(NamedTuple):
    """A mean with its 95 % interval over seeds (nan where one seed is all there is), and how many."""

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


def interval(values: Sequence[float]) -> Interval:
    """Mean with Student's 95 % interval over independent repetitions.

    Raises:
      ValueError: no values, or more than the table of quantiles holds.
    """
    if not 1 <= len(values) <= len(_T) + 1:
        raise ValueError(f"interval: got {len(values)} values, expected 1 to {len(_T) + 1}")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = _T[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))
