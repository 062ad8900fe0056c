"""A gate that may look after every batch: betting tests of paired, clustered differences, valid at any look.

H0: mean = delta or less. Every cluster g of n_g items with difference sum T_g is a bet at fair odds or worse:

  x_g = (T_g - delta n_g) / ((u + delta) N) >= -1,   E[x_g | past] <= 0 under H0;
  capital_t = sum_k w_k prod_{g <= t} (1 + f_k x_g),  0 < f_k < 1, sum_k w_k = 1,

N the size of the largest cluster and u how far an item can fall. The capital is a nonnegative supermartingale
that starts at 1, so by Ville's inequality it ever reaches 1 / alpha with probability alpha at most: at any
look, at every look, wherever one stops. The mixture over f makes it a function of the clusters seen so far as
a set: their order within a batch changes nothing.

Non-inferiority (KEPT) is the bet at delta = -margin, a drop (REGRESSED) the bet on -T at delta = 0. The
confidence sequence holds the deltas at which neither bet has reached 1 / alpha at any look so far; it holds
the mean difference at all looks together with error alpha at either end. At a single look it holds the
observed mean; the sharpest of several looks need not hold the mean of the last.

Assumed: clusters are independent draws of one population, in an order that no result has a part in (a seeded
shuffle before the first look), whole clusters within a batch, and N is stated beforehand. The mean is
E[T] / E[n]; items of a cluster may depend on each other in any way and n_g may have to do with T_g. One
cluster that is much larger than the rest makes every bet small: then nothing is decided, never wrongly.

Sources: Waudby-Smith and Ramdas, Journal of the Royal Statistical Society B 86 (2024) 1-27, arXiv 2010.09686
(betting on bounded means); Ville 1939; the mixture over bets, Cover, Mathematical Finance 1 (1991) 1-29;
Orabona and Jun, IEEE Transactions on Information Theory 70 (2024), arXiv 2110.14099.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from eval_harness.stats.clustered import Clusters, Codes, Floats

FRACTIONS = 0.98 * 2.0 ** (-np.arange(9) / 2)  # of what a bet may lose, from all but two per cent to 1 / 16
_EDGE = 1e-9


class Look(NamedTuple):
    """What is known after a batch.

    `low`, `high` and `p` of a drop are the sharpest of all looks so far; `difference` is the mean now.
    """

    items: int
    clusters: int
    difference: float
    low: float
    high: float
    p: float


def log_capital(bets: Floats, ends: Codes) -> Floats:
    """Log of the capital after so many bets.

    Args:
      bets: x, -1 or more, [..., bets].
      ends: numbers of bets, at least 1, [looks].

    Returns:
      [..., looks].
    """
    parts = [np.cumsum(np.log1p(fraction * bets), axis=-1)[..., ends - 1] for fraction in FRACTIONS]
    return np.asarray(special.logsumexp(np.stack(parts), axis=0) - math.log(len(FRACTIONS)), np.float64)


def bets_against(sums: Floats, sizes: Codes, largest: int, delta: float, fall: float = 1.0) -> Floats:
    """The bets x against H0: mean = delta or less.

    Args:
      sums: T_g, [..., clusters].
      sizes: n_g, [..., clusters].
      largest: N, stated before the first look.
      delta: above -fall.
      fall: how far an item can fall, in (0, 1].

    Raises:
      ValueError: a cluster larger than stated, or an item that fell further.
    """
    if sizes.size and int(sizes.max()) > largest:
        raise ValueError(f"got a cluster of {int(sizes.max())} items, stated at most {largest}")
    if sums.size and float((sums + fall * sizes).min()) < -1e-9 * largest:
        raise ValueError(f"got a cluster that fell by more than {fall:g} an item, the most stated")
    return np.asarray((sums - delta * sizes) / ((fall + delta) * largest), dtype=np.float64)


def lower_end(sums: Floats, sizes: Codes, largest: int, alpha: float, fall: float = 1.0) -> float:
    """Largest delta that the bets so far reject at level alpha, or -fall; arguments as in `bets_against`."""
    needed, least, mean = -math.log(alpha), -fall + _EDGE, float(sums.sum() / sizes.sum())
    last = np.array([len(sums)])

    def spare(delta: float) -> float:
        # Falls with delta, as (T - delta n) / (fall + delta) does.
        return float(log_capital(bets_against(sums, sizes, largest, delta, fall), last)[0]) - needed

    if mean <= least or spare(least) < 0:
        return -fall
    return float(optimize.brentq(spare, least, mean, xtol=1e-7))


def looks(
    values: Floats,
    clusters: Clusters,
    ends: Sequence[int],
    largest: int,
    alpha: float,
    room: tuple[float, float] = (1.0, 1.0),
) -> list[Look]:
    """What every look shows; KEPT when `low` lies above -margin, REGRESSED when `p` (by Holm) is below alpha.

    Args:
      values: differences in [-1, 1] in the order of the run, [items].
      clusters: of the same items, numbered in the order of the run.
      ends: number of clusters seen at each look, rising.
      largest: size of the largest cluster there can be.
      alpha: one-sided level.
      room: how far an item can fall, and rise.

    Raises:
      ValueError: a cluster larger than stated, or a difference beyond the room.
    """
    sums, sizes = clusters.totals(values), clusters.sizes
    drops = bets_against(-sums, sizes, largest, 0.0, room[1])
    low, high, p, found = -room[0], room[1], 1.0, []
    for end in ends:
        seen, counts = sums[:end], sizes[:end]
        low = max(low, lower_end(seen, counts, largest, alpha, room[0]))
        high = min(high, -lower_end(-seen, counts, largest, alpha, room[1]))
        p = min(p, math.exp(-float(log_capital(drops, np.array([end]))[0])))
        items = int(counts.sum())
        found.append(Look(items, end, float(seen.sum()) / items, low, high, p))
    return found
