"""How many items a gate needs: power of the non-inferiority test, and items that would decide.

`discordance` is the mean squared difference per item; for right-or-wrong metrics the share of items that the
two models answer differently. Equation (for sd0 = sd1 = sd): n = ((z_{1-alpha} + z_{power}) sd / margin)^2.
"""

import math

from scipy import stats

from eval_harness.stats.binary import null_variance

POWER = 0.8


def keep_power(items: float, discordance: float, margin: float, alpha: float, effect: float = 1.0) -> float:
    """P(KEPT | nothing changed on average) of a right-or-wrong metric.

    Equation: Phi((margin sqrt(n) - z_{1-alpha} sd0) / sd1) with n = items / effect, sd1^2 = discordance, and
    sd0 the score test's standard deviation under H0: difference = -margin.
    """
    sd0 = math.sqrt(null_variance(discordance / 2, discordance / 2, -margin))
    reach = margin * math.sqrt(items / effect) - float(stats.norm.ppf(1 - alpha)) * sd0
    return float(stats.norm.cdf(reach / math.sqrt(discordance)))


def items_for_power(
    discordance: float, margin: float, alpha: float, effect: float = 1.0, power: float = POWER
) -> int:
    """Fewest items at which `keep_power` reaches `power`."""
    sd0 = math.sqrt(null_variance(discordance / 2, discordance / 2, -margin))
    return _items(sd0, math.sqrt(discordance), margin, alpha, effect, power)


def margin_for_power(
    items: float, discordance: float, alpha: float, effect: float = 1.0, power: float = POWER
) -> float:
    """Smallest margin, to a thousandth, at which `keep_power` reaches `power`; 1 where none does."""
    for thousandths in range(1, 1000):
        if keep_power(items, discordance, thousandths / 1000, alpha, effect) >= power:
            return thousandths / 1000
    return 1.0


def _items(sd0: float, sd1: float, distance: float, alpha: float, effect: float, power: float) -> int:
    reach = float(stats.norm.ppf(1 - alpha)) * sd0 + float(stats.norm.ppf(power)) * sd1
    return math.ceil(effect * (reach / distance) ** 2)


def items_to_decide(
    lost: float,
    gained: float,
    difference: float,
    variance: float,
    margin: float,
    alpha: float,
    tests: int,
    effect: float,
    power: float = POWER,
) -> int:
    """Items at which the gate would decide with probability `power`, if all stays as measured.

    Args:
      lost: share of items lost; for graded scores half the mean squared difference, and so is gained.
      gained: share of items gained.
      difference: mean difference.
      variance: of one item's difference.
      margin: of the gate.
      alpha: one-sided level.
      tests: number of tests among which Holm shares alpha.
      effect: design effect.
      power: probability of a decision.

    Returns:
      The smaller of the numbers for KEPT and for REGRESSED; one of the two always exists.
    """
    sd1 = math.sqrt(variance)
    needed = []
    if difference > -margin:
        sd0 = math.sqrt(null_variance(lost, gained, -margin))
        needed.append(_items(sd0, sd1, difference + margin, alpha, effect, power))
    if difference < 0:
        sd0 = math.sqrt(lost + gained)
        needed.append(_items(sd0, sd1, -difference, alpha / tests, effect, power))
    return min(needed)
