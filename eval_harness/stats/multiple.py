"""Several tests at once."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p: at level alpha, all rejections together are false with probability <= alpha.

    Equation: sorted upwards, padj_(k) = min(1, max_{j <= k} (K - j + 1) p_(j)).
    Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    count, adjusted, highest = len(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        highest = max(highest, (count - rank) * p_values[index])
        adjusted[index] = min(1.0, highest)
    return adjusted
