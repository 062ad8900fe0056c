"""Win rate at equal length: a logistic regression on the difference in length, with a bootstrap.

    logit P(win) = theta + phi tanh( (length of the candidate's text - length of the baseline's) / s )

s is the standard deviation of the differences. The controlled rate is P(win) at a difference of 0. This is
the idea of AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475) without its term for the difficulty of single
instructions, which exists for its own 805 prompts only: the two numbers are not comparable.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from eval_harness.stats.clustered import Floats, clusters_of

DRAWS = 2000
# Keeps theta finite where one side always wins; as much information as a hundredth of one comparison.
_RIDGE = 0.01
_STEPS = 50
_BLOCK = 4_000_000  # numbers held at once


class Controlled(NamedTuple):
    """Rate in [0, 1], its bootstrap error, the ends of its 95 % interval, and the slope phi."""

    rate: float
    stderr: float
    low: float
    high: float
    slope: float


def length_controlled(
    wins: Sequence[float],
    lengths: Sequence[tuple[int, int]],
    clusters: Sequence[Hashable],
    seed: int = 0,
    draws: int = DRAWS,
) -> Controlled:
    """Fit, and bootstrap over clusters.

    Args:
      wins: share of the win per comparison, in [0, 1], [comparisons].
      lengths: characters of the candidate's and the baseline's text.
      clusters: equal for comparisons that share a prompt.
      seed: of the bootstrap.
      draws: of the bootstrap.

    Raises:
      ValueError: no comparisons, or the three differ in number.
    """
    if not len(wins) == len(lengths) == len(clusters) or not wins:
        raise ValueError(f"got {len(wins)}, {len(lengths)} and {len(clusters)} entries, expected as many")
    y = np.asarray(wins, dtype=np.float64)
    gaps = np.array([ours - theirs for ours, theirs in lengths], dtype=np.float64)
    x = np.tanh(gaps / gaps.std()) if gaps.std() > 0 else np.zeros_like(gaps)
    groups = clusters_of(clusters)
    theta, phi = fit(x, y, np.ones((1, len(y))))
    generator = np.random.default_rng(seed)
    rates: list[Floats] = []
    block = max(1, _BLOCK // len(y))
    for start in range(0, draws, block):
        count = min(block, draws - start)
        picks = generator.multinomial(groups.number, np.full(groups.number, 1 / groups.number), size=count)
        rates.append(_sigmoid(fit(x, y, picks[:, groups.codes].astype(np.float64))[0]))
    drawn = np.concatenate(rates)
    low, high = np.quantile(drawn, (0.025, 0.975))
    error = float(drawn.std(ddof=1)) if len(drawn) > 1 else 0.0
    return Controlled(float(_sigmoid(theta)[0]), error, float(low), float(high), float(phi[0]))


def _sigmoid(value: Floats) -> Floats:
    clipped: Floats = np.clip(value, -700, 700)
    return 1 / (1 + np.exp(-clipped))


def fit(x: Floats, y: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Intercepts and slopes of weighted logistic regressions, by Newton's method.

    Args:
      x: [comparisons].
      y: in [0, 1], [comparisons].
      weights: at least 0, [fits, comparisons].

    Returns:
      theta and phi, each [fits].
    """
    theta, phi = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(_STEPS):
        p = _sigmoid(theta[:, None] + phi[:, None] * x)
        rest, spread = weights * (y - p), weights * p * (1 - p)
        g0, g1 = rest.sum(1) - _RIDGE * theta, (rest * x).sum(1) - _RIDGE * phi
        h00, h01 = spread.sum(1) + _RIDGE, (spread * x).sum(1)
        h11 = (spread * x * x).sum(1) + _RIDGE
        det = h00 * h11 - h01 * h01
        step0, step1 = (h11 * g0 - h01 * g1) / det, (h00 * g1 - h01 * g0) / det
        # Far from the optimum a full step may overshoot where all answers agree.
        theta, phi = theta + np.clip(step0, -4, 4), phi + np.clip(step1, -4, 4)
        if max(np.abs(step0).max(), np.abs(step1).max()) < 1e-10:
            break
    return theta, phi
