"""Interval and p of a mean of bounded differences that come in clusters, by nonparametric tilting.

Plain t and the bootstrap know only the changes that a sample happens to hold. Where few items fall far, a
sample with too few of them shows a small mean *and* a small variance, and t then calls a drop excluded that
is there. Here the test of H0: mean = delta asks how often a sample as good as this one comes from the
likeliest population with mean delta:

  rates r_g = T_g / n_g with shares q_g = n_g / n (T_g the sum of the n_g differences of cluster g);
  w_g  ~  q_g exp(-lambda (r_g - delta)), lambda >= 0 such that sum_g w_g r_g = delta;
  lambda <= 1 / (u + delta): beyond that a change not seen yet explains the drop better than a tilt, and the
  population gets mass e on clusters that fall as a whole, by u, until its mean is delta;
  p = P(sum_g n_g R_g >= sum_g T_g), R_g independent draws from that population, by Fourier transform.

A cluster of any size may have any rate that was seen, so items of one cluster may depend on each other in any
way. Where sizes differ, a second population is asked, of clusters drawn whole: the sums n_g (r_g - delta)
stay with their sizes, and unseen falls strike clusters in proportion to size, so that large clusters may
change more than small ones. The larger p counts. z = Phi^-1(1 - p) is referred to Student's t with
(sum n_g)^2 / sum n_g^2 - 1 degrees of freedom, more where part of the variance is the unseen's: for normal
differences and a tilt below its bound p is that of the paired t test.

No observed variance (all rates equal r): only the unseen remains, p = (1 - e)^G with
e = (r - delta) / (r + u). So G clusters of one size leave a drop of about -r + 3 (r + u) / G possible at
alpha = 0.05; with r = 0 and u = 1 that is the rule of three. Nearly none is the same formula. The interval
always holds the mean.

Sources: tilting, DiCiccio and Romano, International Statistical Review 58 (1990) 59-76; the bound on lambda,
the likelihood of bounded variables in Honda and Takemura, COLT 2010; effective clusters, Kish, Survey
Sampling (1965), and for tests Carter, Schnepel and Steigerwald, Review of Economics and Statistics 99 (2017)
698-709.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from eval_harness.stats.clustered import Clusters, Codes, Floats, Inference, effective_clusters

_GRID = 8192  # points of the discretised sum
_SMALLEST = 1e-14  # of a p: the transform's own rounding
_EDGE = 1e-9
_ROUNDING = 1e-12  # of a mean: a distance below it is none, and too small for the transform's grid
_TIE = 0.015  # standard deviations within which the rounded sum counts as equal to the observed one


class Rates(NamedTuple):
    """Mean difference r_g and size n_g of every cluster, [clusters], in the order of sizes, then rates."""

    rates: Floats
    sizes: Codes

    @property
    def shares(self) -> Floats:
        """Share of the items, of sum 1, [clusters]."""
        return np.asarray(self.sizes / self.sizes.sum(), dtype=np.float64)

    @property
    def effective(self) -> float:
        """Equal clusters that say as much."""
        return effective_clusters(self.sizes)

    @property
    def mean(self) -> float:
        """Mean difference of the items."""
        return float(self.rates @ self.shares)

    def mirrored(self) -> "Rates":
        """The same with the models exchanged."""
        return sorted_rates(-self.rates, self.sizes)


def sorted_rates(rates: Floats, sizes: Codes) -> Rates:
    """In the order of sizes, then rates."""
    order = np.lexsort((rates, sizes))
    return Rates(rates[order], sizes[order])


class Population(NamedTuple):
    """Distances r - delta and their probabilities; `unseen` is the mass on whole falls of -fall."""

    distances: Floats
    weights: Floats
    fall: float
    unseen: float


def likeliest(distances: Floats, shares: Floats, fall: float) -> Population:
    """The tilted population with mean 0.

    Args:
      distances: rate minus delta per cluster, [clusters]; their mean by shares is positive.
      shares: positive, of sum 1, [clusters].
      fall: distance of an unseen fall below delta, positive.
    """

    def tilted(strength: float) -> Floats:
        exponent = -strength * distances
        weights = shares * np.exp(exponent - exponent.max())
        return np.asarray(weights / weights.sum(), dtype=np.float64)

    def mean(strength: float) -> float:
        return float(tilted(strength) @ distances)

    most = 1 / fall
    rest = mean(most)
    if rest > 0:
        unseen = rest / (rest + fall)
        return Population(distances, tilted(most) * (1 - unseen), fall, unseen)
    strength = optimize.brentq(mean, 0.0, most, xtol=1e-7 * most) if mean(0.0) > 0 else 0.0
    return Population(distances, tilted(strength), fall, 0.0)


def _reached(population: Population, sample: Rates, delta: float) -> float:
    """P(sum_g n_g R_g >= its observed value), R_g drawn from the population."""
    values, weights, sizes = sample.rates, population.weights, sample.sizes
    if population.unseen > 0:
        values, weights = np.append(values, delta - population.fall), np.append(weights, population.unseen)
    distances = values - delta
    deviation = math.sqrt(float(np.square(sizes, dtype=np.float64).sum()) * float(weights @ distances**2))
    width = 16 * deviation + 12 * float(sizes[-1]) * float(np.abs(distances).max())
    # A power of two: whole numbers keep their ties, and p is continuous in delta.
    step = 2.0 ** math.ceil(math.log2(width / _GRID))
    spectrum = np.ones(_GRID // 2 + 1, dtype=np.complex128)
    starts, moved = np.flatnonzero(np.diff(sizes, prepend=0)), 0.0
    for start, end in zip(starts, [*starts[1:], len(sizes)], strict=True):
        exact = sizes[start] / step * values
        points = np.rint(exact)
        moved += int(end - start) * float(weights @ (points - exact))
        law = np.bincount(points.astype(np.int64) % _GRID, weights=weights, minlength=_GRID)
        spectrum *= _power(np.fft.rfft(law), int(end - start))
    least = round(delta * float(sizes.sum()) / step) - _GRID // 2  # the window's centre is the expected sum
    law = np.roll(np.fft.irfft(spectrum, _GRID), -least)
    # By how much rounding moved the population's mean, the observed sum moves too.
    observed = (float(sample.rates @ sizes) - _TIE * deviation) / step + moved
    return float(law[min(max(math.ceil(observed) - least, 0), _GRID) :].sum())


def _power(values: NDArray[np.complex128], exponent: int) -> NDArray[np.complex128]:
    """By repeated squaring: numpy's own power of complex numbers takes twenty times as long."""
    result = values if exponent % 2 else np.ones_like(values)
    while exponent := exponent // 2:
        values = values * values
        result = result * values if exponent % 2 else result
    return result


def p_above(sample: Rates, fall: float, delta: float) -> float:
    """P of H0: mean = delta or less, small where the mean lies above.

    Args:
      sample: at least two clusters.
      fall: how far an item that was not seen may fall, in (0, 1].
      delta: in (-1, 1).
    """
    if sample.mean - delta <= _ROUNDING:
        return 1.0
    if fall + delta <= 0:  # no population of such items drops so far
        return _SMALLEST
    p = _tilted_p(sample, fall, delta, sample.effective - 1)
    if sample.sizes[0] == sample.sizes[-1]:
        return p
    number = len(sample.sizes)
    sums = (sample.rates - delta) * sample.shares * number
    pairs = sorted_rates(sums, np.ones(number, dtype=np.int64))
    largest = (fall + delta) * number / sample.effective
    return max(p, _tilted_p(pairs, largest, 0.0, sample.effective - 1))


def _tilted_p(sample: Rates, fall: float, delta: float, freedom: float) -> float:
    population = likeliest(sample.rates - delta, sample.shares, fall + delta)
    p = min(max(_reached(population, sample, delta), _SMALLEST), 1.0)
    return _small_sample(p, population, freedom)


def _small_sample(p: float, population: Population, freedom: float) -> float:
    """The p with z referred to t: the seen part of the variance is an estimate, the unseen part is not.

    Satterthwaite's degrees of freedom of such a sum are freedom * (whole / seen part)^2.
    """
    distances, weights, unseen = population.distances, population.weights, population.unseen
    whole = float(weights @ distances**2) + unseen * population.fall**2
    seen = whole - unseen * population.fall**2 / (1 - unseen)  # about the mean of what was seen
    if seen <= 1e-9 * whole:
        return p
    freedom *= (whole / seen) ** 2
    quantile = float(special.ndtri(p)) * math.sqrt(freedom / (freedom + 1))
    return float(special.stdtr(freedom, quantile))


def lower_end(sample: Rates, fall: float, alpha: float) -> float:
    """Largest delta below the mean that is rejected at level alpha; -fall or less is never needed."""
    mean, least = sample.mean, -fall + _EDGE

    def excess(delta: float) -> float:
        # Normal quantiles are nearly straight in delta: the search ends after a few steps.
        p = min(p_above(sample, fall, delta), 0.9)
        return float(special.ndtri(p) - special.ndtri(alpha))

    spread = math.sqrt(float(sample.shares @ np.square(sample.rates - mean)))
    clusters = sample.effective
    step = 2 * spread / math.sqrt(clusters) + 2 * (fall + mean) / clusters
    low, high = mean - step, mean
    while low > least and excess(low) >= 0:
        low, high = low - step, low
    if low <= least:
        low = least
        if mean <= least or excess(least) >= 0:
            return min(mean, -fall)
    return float(optimize.brentq(excess, low, high, xtol=1e-6, rtol=1e-6))


def infer(values: Floats, clusters: Clusters, room: tuple[float, float], alpha: float) -> Inference:
    """One-sided p of a drop, and the interval.

    Args:
      values: differences per item in [-1, 1], [items].
      clusters: of the same items, at least two.
      room: how far an item that was not seen may fall, and may rise; in (0, 1].
      alpha: one-sided level.
    """
    sample = sorted_rates(clusters.totals(values) / clusters.sizes, clusters.sizes)
    mirrored = sample.mirrored()
    low, high = lower_end(sample, room[0], alpha), -lower_end(mirrored, room[1], alpha)
    return Inference(p_above(mirrored, room[1], 0.0), low, high)
