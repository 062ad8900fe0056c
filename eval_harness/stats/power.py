"""How many items a gate needs: power of the non-inferiority test, and items that would decide.

`discordance` is the mean squared difference per item; for right-or-wrong metrics the share of items that the
two models answer differently. Equation (for sd0 = sd1 = sd): n = ((z_{1-alpha} + z_{power}) sd / margin)^2.
"""

import math

from scipy import stats

from eval_harness.stats.binary import null_variance
from eval_harness.stats.paired import PAIRED_T, Paired

POWER = 0.8


def _null_deviation(discordance: float, margin: float, graded: bool) -> float:
    """Standard deviation of an item's difference under H0: difference = -margin, as the test estimates it."""
    # Right-or-wrong answers cannot drop by the margin without as much discordance; graded scores can.
    return math.sqrt(discordance if graded else null_variance(discordance / 2, discordance / 2, -margin))


def keep_power(
    items: float,
    discordance: float,
    margin: float,
    alpha: float,
    effect: float = 1.0,
    graded: bool = False,
) -> float:
    """P(KEPT | nothing changed on average).

    Equation: Phi((margin sqrt(n) - z_{1-alpha} sd0) / sd1) with n = items / effect, sd1^2 = discordance, and
    sd0 the score test's standard deviation under H0: difference = -margin (graded scores: sd1).
    """
    sd0 = _null_deviation(discordance, margin, graded)
    reach = margin * math.sqrt(items / effect) - float(stats.norm.ppf(1 - alpha)) * sd0
    return float(stats.norm.cdf(reach / math.sqrt(discordance)))


def items_for_power(
    discordance: float, margin: float, alpha: float, effect: float = 1.0, graded: bool = False
) -> int:
    """Fewest items at which `keep_power` reaches 0.8."""
    sd0 = _null_deviation(discordance, margin, graded)
    return _items(sd0, math.sqrt(discordance), margin, alpha, effect)


def margin_for_power(
    items: float, discordance: float, alpha: float, effect: float = 1.0, graded: bool = False
) -> float:
    """Smallest margin, to a thousandth, at which `keep_power` reaches 0.8; 1 where none does."""
    for thousandths in range(1, 1000):
        if keep_power(items, discordance, thousandths / 1000, alpha, effect, graded) >= POWER:
            return thousandths / 1000
    return 1.0


def _items(sd0: float, sd1: float, distance: float, alpha: float, effect: float) -> int:
    reach = float(stats.norm.ppf(1 - alpha)) * sd0 + float(stats.norm.ppf(POWER)) * sd1
    return math.ceil(effect * (reach / distance) ** 2)


def items_to_decide(found: Paired, margin: float, alpha: float, tests: int) -> int:
    """Observations at which the gate would decide with probability 0.8, if all stays as measured.

    Args:
      found: an undecided comparison.
      margin: of the gate.
      alpha: one-sided level.
      tests: number of tests among which Holm shares alpha.

    Returns:
      The smaller of the numbers for KEPT and for REGRESSED; one of the two always exists.
    """
    lost, gained, sd1 = found.lost / found.n, found.gained / found.n, math.sqrt(found.variance)
    graded = found.method == PAIRED_T and found.variance > 0
    needed = []
    if found.difference > -margin:
        sd0 = sd1 if graded else math.sqrt(null_variance(lost, gained, -margin))
        needed.append(_items(sd0, sd1, found.difference + margin, alpha, found.design_effect))
    if found.difference < 0:
        sd0 = sd1 if graded else math.sqrt(lost + gained)
        needed.append(_items(sd0, sd1, -found.difference, alpha / tests, found.design_effect))
    return min(needed)
