"""Whether a judge's answers depend on the texts at all: from both orders of a pair, from control ratings."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

_DRAWS = 2000
_AT_ONCE = 1 << 22  # numbers of one block of draws


def chance_of_no_information(first: Sequence[float], second: Sequence[float], seed: int = 0) -> float:
    """p-value of the hypothesis that the answers have nothing to do with the texts, whatever the place bias.

    A judge that prefers a text moves the win to the other place when the order is turned, so its two answers
    to a comparison differ. Without information all answers are exchangeable draws, and they differ no more
    than two draws would. The statistic is the sum of squared differences, its distribution that of all
    answers dealt to the comparisons at random: exact for every place bias, every share of ties and any n, but
    for the Monte Carlo of 2,000 deals (smallest value 1/2001).

    Args:
      first: share of the win that went to the first place, candidate first, [comparisons], in [0, 1].
      second: the same with the candidate second, [comparisons].
      seed: of the deals.

    Returns:
      p in (0, 1]; 1 where all answers are equal or there are none.

    Source: a permutation test as in Phipson and Smyth 2010, whose (1 + hits) / (1 + draws) is never 0.
    """
    answers = np.concatenate([first, second]).astype(np.float64)
    count = len(first)
    if not count or np.ptp(answers) == 0:
        return 1.0
    # A little below, so that a deal with the same differences in another order of summation counts as equal.
    seen = float(np.square(answers[:count] - answers[count:]).sum()) * (1 - 1e-12)
    random = np.random.default_rng(seed)
    hits, left = 0, _DRAWS
    while left:
        block = min(left, max(1, _AT_ONCE // len(answers)))
        dealt = random.permuted(np.broadcast_to(answers, (block, len(answers))), axis=1)
        hits += int((np.square(dealt[:, :count] - dealt[:, count:]).sum(1) >= seen).sum())
        left -= block
    return (1 + hits) / (1 + _DRAWS)


def chance_of_no_preference(higher: int, lower: int) -> float:
    """p-value of the hypothesis that a rating does not rise when the document is the summary's own.

    Args:
      higher: summaries rated higher against their own document than against another.
      lower: those rated lower; ties say nothing and are left out.

    Returns:
      P(Binomial(higher + lower, 1/2) >= higher), the exact one-sided sign test; 1 without any.
    """
    return float(stats.binom.sf(higher - 1, higher + lower, 0.5))
