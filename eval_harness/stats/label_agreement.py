"""Agreement of scores with human labels, with intervals from a bootstrap over clusters."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from eval_harness.stats.clustered import Floats, clusters_of

DRAWS = 1000
LEVEL = 0.95


class Interval(NamedTuple):
    """A value and its percentile interval; nan where a draw had one class only or no spread."""

    value: float
    low: float
    high: float


class Agreement(NamedTuple):
    """How scores agree with labels (1 faithful) and with graded human scores.

    `fixed` is the balanced accuracy of `score >= threshold`, None without a threshold; `best` that at the
    threshold chosen on the same rows, so it flatters (every draw of the bootstrap chooses again), `at` that
    threshold. `auc` counts ties one half; `spearman` is with the graded scores.
    """

    n: int
    clusters: int
    faithful: float
    threshold: float | None
    fixed: Interval | None
    best: Interval
    at: float
    auc: Interval
    spearman: Interval


def agreement(
    scores: Sequence[float],
    labels: Sequence[int],
    graded: Sequence[float],
    clusters: Sequence[Hashable],
    threshold: float | None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Agreement:
    """Measure agreement.

    Args:
      scores: larger means more faithful, [rows].
      labels: 1 faithful, 0 not, [rows].
      graded: human scores, larger is better, [rows].
      clusters: equal for rows that share a document; whole clusters are drawn.
      threshold: of the fixed decision, in the unit of `scores`.
      seed: of the bootstrap.
      draws: its number of draws.

    Raises:
      ValueError: lengths differ, or one class only.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    human = np.asarray(graded, dtype=np.float64)
    if not len(values) == len(truth) == len(human) == len(clusters):
        raise ValueError(f"got {len(values)}, {len(truth)}, {len(human)} and {len(clusters)} rows")
    if not 0 < truth.sum() < len(truth):
        raise ValueError(f"got {int(truth.sum())} faithful of {len(truth)} rows, expected both classes")
    groups = clusters_of(clusters)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(groups.number, np.full(groups.number, 1 / groups.number), size=draws)
    weights = np.concatenate([np.ones((1, len(values))), counts[:, groups.codes].astype(np.float64)])
    best, at = _best_balanced(values, truth, weights)
    fixed = (
        None
        if threshold is None
        else _interval(_balanced((values >= threshold).astype(np.float64), truth, weights))
    )
    return Agreement(
        n=len(values),
        clusters=groups.number,
        faithful=float(truth.mean()),
        threshold=threshold,
        fixed=fixed,
        best=_interval(best),
        at=at,
        auc=_interval(_auc(values, truth, weights)),
        spearman=_interval(_spearman(values, human, weights)),
    )


def _interval(estimates: Floats) -> Interval:
    """The first entry is the sample itself, the others are draws."""
    draws = estimates[1:][np.isfinite(estimates[1:])]
    if not len(draws) or not np.isfinite(estimates[0]):
        return Interval(float(estimates[0]), float("nan"), float("nan"))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(estimates[0]), float(low), float(high))


def _balanced(predicted: Floats, truth: Floats, weights: Floats) -> Floats:
    """Mean of both classes' recall, [draws]."""
    right = (predicted == truth).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        good, bad = ((weights @ (right * side)) / (weights @ side) for side in (truth, 1 - truth))
    balanced: Floats = (good + bad) / 2
    return balanced


def _grouped(values: Floats, *columns: Floats) -> tuple[Floats, list[Floats]]:
    """Sort by value and sum columns [draws, rows] over equal values: distinct values, [draws, distinct]."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)
    return values[order][starts], [np.add.reduceat(c[:, order], starts, axis=1) for c in columns]


def _best_balanced(values: Floats, truth: Floats, weights: Floats) -> tuple[Floats, float]:
    """Largest balanced accuracy over all thresholds, and the threshold of the sample itself."""
    distinct, (good, bad) = _grouped(values, weights * truth, weights * (1 - truth))
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = np.cumsum(good[:, ::-1], axis=1)[:, ::-1] / good.sum(axis=1, keepdims=True)
        refused = (np.cumsum(bad, axis=1) - bad) / bad.sum(axis=1, keepdims=True)
    accuracy = (kept + refused) / 2
    return np.maximum(accuracy.max(axis=1), 0.5), float(distinct[int(np.argmax(accuracy[0]))])


def _auc(values: Floats, truth: Floats, weights: Floats) -> Floats:
    """Probability that a faithful row scores above an unfaithful one, ties one half."""
    _, (good, bad) = _grouped(values, weights * truth, weights * (1 - truth))
    below = np.cumsum(bad, axis=1) - bad
    with np.errstate(invalid="ignore", divide="ignore"):
        auc: Floats = (good * (below + bad / 2)).sum(axis=1) / (good.sum(axis=1) * bad.sum(axis=1))
    return auc


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Mid-ranks of rows that stand there `weights` times, [draws, rows]."""
    _, rank = np.unique(values, return_inverse=True)
    _, (sizes,) = _grouped(values, weights)
    ranks: Floats = (np.cumsum(sizes, axis=1) - sizes + (sizes + 1) / 2)[:, rank]
    return ranks


def _spearman(values: Floats, human: Floats, weights: Floats) -> Floats:
    """Pearson correlation of mid-ranks."""
    total = weights.sum(axis=1, keepdims=True)
    first, second = _ranks(values, weights), _ranks(human, weights)
    first, second = (r - (weights * r).sum(axis=1, keepdims=True) / total for r in (first, second))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation: Floats = (weights * first * second).sum(axis=1) / np.sqrt(
            (weights * first**2).sum(axis=1) * (weights * second**2).sum(axis=1)
        )
    return correlation
