"""How many items a gate needs: power of the non-inferiority test, and items that would decide.

`discordance` is the mean squared difference per item; for right-or-wrong metrics the share of items that the
two models answer differently. Equation (for sd0 = sd1 = sd): n = ((z_{1-alpha} + z_{power}) sd / margin)^2.
"""

import bisect
import math
from collections.abc import Callable

from scipy import stats

from eval_harness.stats.binary import null_variance
from eval_harness.stats.paired import SIGN_FLIP, TILTING, Paired
from eval_harness.stats.repeats import repeat_effect

POWER = 0.8


def _null_deviation(discordance: float, margin: float, graded: bool) -> float:
    """Standard deviation of an item's difference under H0: difference = -margin, as the test estimates it."""
    # Right-or-wrong answers cannot drop by the margin without as much discordance; graded scores can.
    return math.sqrt(discordance if graded else null_variance(discordance / 2, discordance / 2, -margin))


def unseen_drop(items: float, alpha: float) -> float:
    """Share of independent items that may have fallen by 1 with none of `items` showing it.

    Equation: 1 - alpha^(1 / items), about 3 / items at alpha 0.05.
    """
    return 1.0 - math.pow(alpha, 1.0 / items)


def keep_power(
    items: float,
    discordance: float,
    margin: float,
    alpha: float,
    effect: float = 1.0,
    graded: bool = False,
    repeats: int = 1,
    correlation: float = 1.0,
    whole: float | None = None,
) -> float:
    """P(KEPT | nothing changed on average).

    Equation: Phi((margin sqrt(n) - z_{1-alpha} sd0) / sd1) with n = items / effect, sd1^2 = discordance, and
    sd0 the score test's standard deviation under H0: difference = -margin (graded scores: sd1). Graded scores
    and clusters must also exclude falls that no item shows: at most
    Phi((margin - unseen_drop) sqrt(n) / sd1), unseen_drop that of items / whole. With k repeats
    n = items k / (effect (1 + (k - 1) rho)); what an item hides no repeat of another shows.

    Args:
      items: number of items.
      discordance: mean squared difference per observation.
      margin: largest acceptable drop.
      alpha: one-sided level.
      effect: design effect of the items' clusters.
      graded: scores between 0 and 1 rather than right or wrong.
      repeats: samples per item, k.
      correlation: of two repeats' differences of an item, rho; `repeats.repeat_correlation` measures it.
      whole: items per effective cluster; without it `effect`, too little where items hardly depend on each
        other and clusters are few.
    """
    independent, sd1 = items / effect, math.sqrt(discordance)
    root = math.sqrt(independent * repeats / repeat_effect(repeats, correlation))
    reach = margin * root - float(stats.norm.ppf(1 - alpha)) * _null_deviation(discordance, margin, graded)
    if graded or effect > 1 or repeats > 1:
        reach = min(reach, (margin - unseen_drop(items / (whole or effect), alpha)) * root)
    return float(stats.norm.cdf(reach / sd1))


def items_for_power(
    discordance: float,
    margin: float,
    alpha: float,
    effect: float = 1.0,
    graded: bool = False,
    repeats: int = 1,
    correlation: float = 1.0,
) -> int:
    """Fewest items at which `keep_power` reaches 0.8."""

    def enough(items: int) -> bool:
        reached = keep_power(items, discordance, margin, alpha, effect, graded, repeats, correlation)
        return reached >= POWER

    return _fewest(enough)


def _fewest(enough: Callable[[int], bool]) -> int:
    """The smallest number that is enough, where every larger one is too."""
    high = 1
    while not enough(high):
        high *= 2
    return bisect.bisect_left(range(high + 1), True, lo=high // 2, key=enough)


def margin_for_power(
    items: float,
    discordance: float,
    alpha: float,
    effect: float = 1.0,
    graded: bool = False,
    repeats: int = 1,
    correlation: float = 1.0,
) -> float:
    """Smallest margin, to a thousandth, at which `keep_power` reaches 0.8; 1 where none does."""
    for thousandths in range(1, 1000):
        margin = thousandths / 1000
        if keep_power(items, discordance, margin, alpha, effect, graded, repeats, correlation) >= POWER:
            return margin
    return 1.0


def items_to_decide(measured: Paired, margin: float, alpha: float, tests: int) -> int:
    """Observations at which the gate would decide with probability 0.8, if all stays as measured.

    Args:
      measured: an undecided comparison.
      margin: of the gate.
      alpha: one-sided level.
      tests: number of tests among which Holm shares alpha.

    Returns:
      The smaller of the numbers for KEPT and for REGRESSED; one of the two always exists.
    """
    lost, gained, sd1 = measured.lost / measured.n, measured.gained / measured.n, math.sqrt(measured.variance)
    graded = measured.method == TILTING
    # Whole clusters that nobody saw fall count as one item each.
    whole = (
        measured.n / measured.effective
        if measured.effective and (graded or measured.method == SIGN_FLIP)
        else 0.0
    )
    needed = []
    if measured.difference > -margin:
        sd0 = sd1 if graded else math.sqrt(null_variance(lost, gained, -margin))
        needed.append(_items(sd0, sd1, measured.difference + margin, alpha, measured.design_effect, whole))
    if measured.difference < 0:
        sd0, whole = (sd1, whole) if graded else (math.sqrt(lost + gained), 0.0)
        needed.append(_items(sd0, sd1, -measured.difference, alpha / tests, measured.design_effect, whole))
    return min(needed)


def _items(sd0: float, sd1: float, distance: float, alpha: float, effect: float, whole: float) -> int:
    """Fewest items that show `distance` with probability 0.8; `whole` items fall together, 0: none unseen."""
    z, spare = float(stats.norm.ppf(1 - alpha)), float(stats.norm.ppf(POWER))

    def enough(items: int) -> bool:
        error = math.sqrt(effect / items)
        reach = z * sd0 * error
        if whole:
            reach = max(reach, unseen_drop(items / whole, alpha))
        return distance >= reach + spare * sd1 * error

    return _fewest(enough)
