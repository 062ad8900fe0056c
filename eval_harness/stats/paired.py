"""Two models on the same items: the difference, its interval and the p of a drop, by the fitting method."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from eval_harness.stats import continuous
from eval_harness.stats.binary import score_interval, sign_flip
from eval_harness.stats.clustered import (
    Clusters,
    Floats,
    clustered_mean,
    clusters_of,
    design_effect,
    largest_design_effect,
)

MCNEMAR = "exact McNemar"
SIGN_FLIP = "exact sign flip by cluster"
PAIRED_T = "paired t, bootstrap check"
NO_TEST = "none: a single cluster"


@dataclass(frozen=True)
class Paired:
    """Candidate minus baseline; positive is better.

    `low` and `high` bound the difference, each with one-sided error alpha; the candidate is non-inferior at
    margin m when low > -m. `p` is the one-sided p of a drop, not adjusted. `lost` and `gained` count
    observations that got worse and better. `discordance` is the mean squared difference, `variance` that of
    one observation.
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


def paired(
    candidate: Sequence[float],
    baseline: Sequence[float],
    clusters: Sequence[Hashable],
    alpha: float,
    seed: int = 0,
) -> Paired:
    """Compare two models observation by observation.

    Args:
      candidate: scores in [0, 1], larger is better, [observations].
      baseline: of the same observations in the same order.
      clusters: equal for observations that may depend on each other.
      alpha: one-sided level, in (0, 0.5).
      seed: of the bootstrap.

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
    binary = bool(np.isin(both, (0.0, 1.0)).all())
    if groups.number < 2:
        method, found, effect = NO_TEST, continuous.Inference(1.0, -1.0, 1.0), largest_design_effect(groups)
    elif binary:
        method, found = MCNEMAR if groups.single else SIGN_FLIP, _binary(values, groups, effect, alpha)
    else:
        method, found = PAIRED_T, continuous.infer(values, groups, estimate, alpha, seed)
    return Paired(
        n=len(values),
        clusters=groups.number,
        baseline=float(theirs.mean()),
        candidate=float(ours.mean()),
        difference=estimate.mean,
        stderr=0.0 if math.isnan(estimate.stderr) else estimate.stderr,
        low=max(-1.0, found.low),
        high=min(1.0, found.high),
        p=found.p,
        method=method,
        lost=int((values < 0).sum()),
        gained=int((values > 0).sum()),
        discordance=float(np.square(values).mean()),
        variance=float(values.var()),
        design_effect=effect,
    )


def _binary(values: Floats, groups: Clusters, effect: float, alpha: float) -> continuous.Inference:
    """Exact test of a drop; Tango's interval on the effective sample size, with t where clusters are few."""
    lost, gained = float((values < 0).sum()), float((values > 0).sum())
    law = stats.norm() if groups.single else stats.t(groups.number - 1)
    quantile = float(law.ppf(1 - alpha))
    low, high = score_interval(lost / effect, gained / effect, len(values) / effect, quantile)
    return continuous.Inference(sign_flip(groups.totals(values)), low, high)
