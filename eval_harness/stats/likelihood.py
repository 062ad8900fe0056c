"""The gold answer's log-likelihood as a graded score, and the items any metric needs to show a change."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

from eval_harness.stats.clustered import Floats, clustered_mean, clusters_of
from eval_harness.stats.power import POWER


def probability_per_byte(log_likelihood: Floats, size: Floats) -> Floats:
    """Geometric mean of the probability per byte, in (0, 1]: a score that the gate takes.

    Equation: exp(log-likelihood / bytes). It moves with every answer where accuracy moves with few, and
    normal approximations fit it better, but a change in it need not change a single answer.

    Args:
      log_likelihood: of the gold answer, nats, at most 0, [items].
      size: bytes of its UTF-8 text, at least 1, [items].

    Raises:
      ValueError: a positive or unreal log-likelihood, a size below 1, or lengths that differ.
    """
    if log_likelihood.shape != size.shape or not log_likelihood.size:
        raise ValueError(f"got {log_likelihood.shape} log-likelihoods and {size.shape} sizes")
    if not bool((log_likelihood <= 0).all()) or not bool((size >= 1).all()):
        raise ValueError("got a log-likelihood above 0 or not a number, or an answer without bytes")
    return np.asarray(np.exp(log_likelihood / size), dtype=np.float64)


def items_to_detect(differences: Floats, clusters: Sequence[Hashable], alpha: float) -> int:
    """Items at which a change as large as the measured one is seen with probability 0.8; free of units.

    Equation: n ((z_{1-alpha} + z_power) SE / mean)^2, so accuracy and log-likelihood of the same two runs
    can be compared: the metric that needs fewer items is the sharper one.

    Args:
      differences: candidate minus baseline in the metric's own unit, [items].
      clusters: equal for items that may depend on each other, at least two.
      alpha: one-sided level.

    Raises:
      ValueError: no difference on average, or a single cluster.
    """
    estimate = clustered_mean(differences, clusters_of(clusters))
    if estimate.mean == 0 or math.isnan(estimate.stderr):
        raise ValueError(
            f"got a mean difference of {estimate.mean:g}, expected one that is not 0, and clusters"
        )
    reach = float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(POWER))
    return max(1, math.ceil(len(differences) * (reach * estimate.stderr / estimate.mean) ** 2))
