"""Several samples of every item: pass@k, and what repeats are worth.

Two models that answer every item k times are compared by (item, repeat), in clusters of an item: that is
mean@k. pass@k is one number per item and model, compared by item.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eval_harness.stats.clustered import Floats


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
