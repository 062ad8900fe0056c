"""Several samples of every item: what to compare, pass@k, and what repeats are worth.

Two models that answer every item k times are compared by (item, repeat), in clusters of an item: that is
mean@k. pass@k is one number per item and model, compared by item.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval_harness.stats.clustered import Floats


class Observations(NamedTuple):
    """Arguments of `paired`: scores of both models, and clusters; [observations] each."""

    candidate: list[float]
    baseline: list[float]
    clusters: list[int]


def mean_at_k(candidate: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]) -> Observations:
    """One observation per (item, repeat), in clusters of an item; all repeats weigh alike.

    Args:
      candidate: scores in [0, 1], [items][repeats]; items may differ in their number.
      baseline: as many repeats of each item.

    Raises:
      ValueError: items or repeats that differ in number, or an item without one.
    """
    _check(candidate, baseline, [len(scores) for scores in baseline])
    numbers = [item for item, scores in enumerate(candidate) for _ in scores]
    flat = [[float(score) for scores in side for score in scores] for side in (candidate, baseline)]
    return Observations(flat[0], flat[1], numbers)


def pass_at_k(
    candidate: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]], k: int
) -> Observations:
    """One observation per item: the unbiased estimate of P(at least one of k samples is right).

    Args:
      candidate: 0 or 1, [items][samples], at least k samples of each item.
      baseline: as many items; the number of samples may differ.
      k: at least 1.

    Raises:
      ValueError: another number of items, fewer samples than k, a score that is neither 0 nor 1.
    """
    _check(candidate, baseline, None)
    sides = [[unbiased_pass(scores, k) for scores in side] for side in (candidate, baseline)]
    return Observations(sides[0], sides[1], list(range(len(candidate))))


def pass_metrics(scores: Sequence[float]) -> dict[int, float]:
    """pass@j of an item's k samples for j = 2, 4, 8, ... and k; none where one is not right or wrong."""
    k = len(scores)
    if k < 2 or any(score not in (0, 1) for score in scores):
        return {}
    steps = sorted({*(2**power for power in range(1, k.bit_length()) if 2**power <= k), k})
    return {j: unbiased_pass(scores, j) for j in steps}


def unbiased_pass(scores: Sequence[float], k: int) -> float:
    """1 - C(n - c, k) / C(n, k) for c right of n.

    Source: Chen et al. 2021, arXiv 2107.03374, equation 1.
    """
    if not 1 <= k <= len(scores):
        raise ValueError(f"got {len(scores)} samples of an item, expected at least k = {k}, and k at least 1")
    if any(score not in (0, 1) for score in scores):
        raise ValueError(f"got {sorted(set(scores))}, expected right (1) or wrong (0)")
    right = sum(score == 1 for score in scores)
    return 1.0 - math.comb(len(scores) - right, k) / math.comb(len(scores), k)


def _check(
    candidate: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]], repeats: list[int] | None
) -> None:
    if len(candidate) != len(baseline) or not candidate:
        raise ValueError(f"got {len(candidate)} and {len(baseline)} items, expected as many, at least one")
    counts = [len(scores) for scores in candidate]
    if 0 in counts or (repeats is not None and counts != repeats):
        raise ValueError("got items with another number of repeats on either side, or none, expected as many")


def repeat_correlation(differences: NDArray[np.float64]) -> float:
    """Correlation of two repeats' differences of the same item, from the analysis of variance; 0 to 1.

    Equation: (B - W) / (B + (k - 1) W) with the mean squares between and within items.

    Args:
      differences: candidate minus baseline, [items, repeats], at least 2 of each.
    Source: intraclass correlation ICC(1), Shrout and Fleiss, Psychological Bulletin 86 (1979) 420-428.
    """
    items, repeats = differences.shape
    means: Floats = differences.mean(axis=1)
    between = repeats * float(np.square(means - differences.mean()).sum()) / (items - 1)
    within = float(np.square(differences - means[:, None]).sum()) / (items * (repeats - 1))
    whole = between + (repeats - 1) * within
    return max(0.0, (between - within) / whole) if whole > 0 else 1.0


def repeat_effect(repeats: int, correlation: float) -> float:
    """Design effect of k repeats: the `effect` of the power formulas when they count observations.

    Equation: 1 + (k - 1) rho; k repeats of an item are worth k / effect single ones.
    Source: Kish 1965, Survey Sampling; for sampled answers Miller 2024, arXiv 2411.00640, section 3.
    """
    return 1.0 + (repeats - 1) * correlation
