"""How well scores find labels, as the demo's report quotes it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """P(score of a true item > score of a false one), ties one half; nan if either class is empty."""
    if len(scores) != len(labels):
        raise ValueError(f"auc: got {len(scores)} scores for {len(labels)} labels; pass one score per label.")
    truth = np.asarray(labels, dtype=bool)
    _, inverse, counts = np.unique(np.asarray(scores, dtype=float), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = int(truth.sum())
    negatives = truth.size - positives
    if not positives or not negatives:
        return math.nan
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))
