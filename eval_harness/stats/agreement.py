"""Agreement of two raters beyond chance."""

from collections.abc import Hashable, Sequence


def cohen_kappa(one: Sequence[Hashable], two: Sequence[Hashable]) -> float:
    """Cohen's kappa: (observed - expected) / (1 - expected) agreement; 0 where both always say the same.

    Args:
      one: labels of the first rater, [items].
      two: labels of the second, in the same order.

    Raises:
      ValueError: no items, or another number of them.
    Source: Cohen 1960, Educational and Psychological Measurement 20.
    """
    if len(one) != len(two) or not one:
        raise ValueError(f"got {len(one)} and {len(two)} labels, expected as many, at least one")
    n = len(one)
    observed = sum(a == b for a, b in zip(one, two, strict=True)) / n
    expected = sum(one.count(label) * two.count(label) for label in set(one) | set(two)) / (n * n)
    return (observed - expected) / (1 - expected) if expected < 1 else 0.0
