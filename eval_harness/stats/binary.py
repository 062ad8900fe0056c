"""Right or wrong on both sides: exact tests of a drop, and a score interval that holds when few items change.

`lost` counts items that the baseline got right and the candidate wrong, `gained` the reverse; both may be
fractions where a design effect shrinks the sample. The difference is (gained - lost) / n.
"""

import math

import numpy as np
from scipy import optimize, stats

from eval_harness.stats.clustered import Floats

_EDGE = 1e-9


def mcnemar(lost: int, gained: int) -> float:
    """Exact one-sided McNemar test of a drop: P(Binomial(lost + gained, 1/2) >= lost).

    Source: McNemar 1947, in its exact binomial form; per-sample use on lm-eval: arXiv 2602.10144.
    """
    return float(stats.binom.sf(lost - 1, lost + gained, 0.5))


def sign_flip(totals: Floats) -> float:
    """Exact one-sided test of a drop when the two models are swapped cluster by cluster.

    P(sum_g s_g T_g <= sum_g T_g) over independent signs s_g = +-1, by convolution. With clusters of one item
    this is McNemar's test.

    Args:
      totals: gained minus lost per cluster, whole numbers, [clusters].
    """
    sizes, counts = np.unique(np.abs(totals[totals != 0]).astype(np.int64), return_counts=True)
    law = np.ones(1)  # of sum_g |T_g| [s_g = +1], which decides the signed sum
    for size, count in zip(sizes, counts, strict=True):
        part = np.zeros(int(size * count) + 1)
        part[:: int(size)] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        law = np.convolve(law, part)
    reached = int(totals[totals > 0].sum())
    return min(1.0, float(law[: reached + 1].sum()))


def null_variance(lost: float, gained: float, delta: float) -> float:
    """Variance (times n) of the difference under H0: difference = delta, at the likeliest lost share.

    Args:
      lost: share of items lost, in [0, 1].
      gained: share of items gained.
      delta: difference under H0, in (-1, 1).
    Source: Tango, Statistics in Medicine 17 (1998) 891-908, equations for the restricted estimate.
    """
    linear = -gained - lost + (2 - gained + lost) * delta
    constant = -lost * delta * (1 - delta)
    root = math.sqrt(max(0.0, linear * linear - 8 * constant))
    restricted = (root - linear) / 4
    return max(0.0, 2 * restricted + delta * (1 - delta))


def score(lost: float, gained: float, n: float, delta: float) -> float:
    """Tango's score statistic of H0: difference = delta; approximately standard normal under H0."""
    distance = (gained - lost) / n - delta
    variance = null_variance(lost / n, gained / n, delta)
    if variance == 0.0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance * math.sqrt(n / variance)


def score_interval(lost: float, gained: float, n: float, quantile: float) -> tuple[float, float]:
    """Differences that the score test does not reject at `quantile` on either side, within [-1, 1]."""
    centre = (gained - lost) / n

    def excess(delta: float, sign: int) -> float:
        return sign * score(lost, gained, n, delta) - quantile

    ends = []
    for sign, edge in ((1, -1 + _EDGE), (-1, 1 - _EDGE)):
        inside = centre - sign * _EDGE
        beyond = abs(centre) >= 1 - 2 * _EDGE and sign * centre < 0
        if beyond or excess(edge, sign) <= 0:
            ends.append(float(-sign))
        else:
            ends.append(float(optimize.brentq(excess, edge, inside, args=(sign,), xtol=1e-12)))
    return ends[0], ends[1]
