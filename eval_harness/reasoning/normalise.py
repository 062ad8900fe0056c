"""Open LLM Leaderboard v2 normalisation; pure.

Source: huggingface/leaderboards, docs/source/en/open_llm_leaderboard/normalization.md. lm-eval does not do
  this. Normalised numbers are for reading beside the leaderboard. Decisions are taken on raw paired scores:
  clipping at 0 hides a drop near chance, and one raw point is 1 / (1 - lower bound) normalised points.
"""

from collections.abc import Sequence


def lower_bound(num_choices: int) -> float:
    """Score of random guessing among `num_choices` answers; 0 for generated answers (num_choices 0).

    Raises:
      ValueError: negative, or 1 (a question with one answer has no scale).
    """
    if num_choices < 0 or num_choices == 1:
        raise ValueError(f"num_choices: got {num_choices}, expected 0 or at least 2")
    return 1.0 / num_choices if num_choices else 0.0


def normalise(value: float, num_choices: int) -> float:
    """Map a raw score in [0, 1] to 0 (chance or below) .. 100 (perfect).

    Equation: 100 (v - lb) / (1 - lb) for v >= lb, else 0, with lb = 1 / num_choices.
    """
    bound = lower_bound(num_choices)
    return 0.0 if value < bound else 100.0 * (value - bound) / (1.0 - bound)


def mean(values: Sequence[float]) -> float:
    """Unweighted mean; the leaderboard's rule over subtasks, metrics and the six benchmarks.

    Raises:
      ValueError: no values.
    """
    if not values:
        raise ValueError("mean of no values")
    return sum(values) / len(values)


def weighted_mean(values: Sequence[float], sizes: Sequence[int]) -> float:
    """Mean weighted by item counts: lm-eval's rule for a group's raw score."""
    if not values or len(values) != len(sizes):
        raise ValueError(f"got {len(values)} values and {len(sizes)} sizes")
    return sum(v * n for v, n in zip(values, sizes, strict=True)) / sum(sizes)
