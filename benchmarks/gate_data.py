"""Made data with a known truth for the gate's error rates: the cells, and how each is drawn.

A cell draws `(candidate, baseline, clusters)` for a true drop: 0, the margin or twice the margin.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special


class Cell(NamedTuple):
    """What is drawn. `formula`: discordance and gradedness for the power formula, if it has a say."""

    name: str
    margin: float
    draw: Callable
    formula: tuple[float, bool] | None = None
    items: int = 0


def geometric(items, mean, rng):
    """Cluster sizes of geometric law, cut to the number of items."""
    sizes = rng.geometric(1 / mean, items)
    count = int(np.searchsorted(np.cumsum(sizes), items)) + 1
    sizes = sizes[:count]
    sizes[-1] -= int(sizes.sum()) - items
    return sizes


def codes(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def latent(sizes, correlation, rng):
    """Normal values whose correlation within a cluster is given; 1 is the same question several times."""
    shared, single = rng.standard_normal(len(sizes)), rng.standard_normal(int(np.sum(sizes)))
    return math.sqrt(correlation) * np.repeat(shared, sizes) + math.sqrt(1 - correlation) * single


def answers(change):
    """Right or wrong on both sides; an item that did not change is right: that enters nothing."""
    theirs = np.where(change == 1, 0.0, 1.0)
    return theirs + change, theirs


def binary(name, sizes, discordance, margin, correlation=0.0, formula=True):
    """Items lost and gained; `sizes` is a list or a function of the generator."""

    def draw(drop, rng):
        own = sizes(rng) if callable(sizes) else np.asarray(sizes)
        level, share = special.ndtr(latent(own, correlation, rng)), max(discordance, drop)
        lost, gained = (share + drop) / 2, (share - drop) / 2
        return *answers(np.where(level < lost, -1, np.where(level > 1 - gained, 1, 0))), codes(own)

    items = 0 if callable(sizes) else int(np.sum(sizes))
    text = f"{name}, correlation {correlation:g}" if correlation or "clusters" in name else name
    text += f", discordance {discordance:g}, margin {margin:g}"
    return Cell(text, margin, draw, (discordance, False) if formula and items else None, items)


def whole_falls(name, sizes, margin, noise, by_size):
    """Clusters that fall as a whole, the larger the likelier or all alike, among changes of single items."""

    def draw(drop, rng):
        own = sizes(rng) if callable(sizes) else np.asarray(sizes)
        chance = drop * own * (own.sum() / np.square(own).sum()) if by_size else np.full(len(own), drop)
        fell = np.repeat(rng.random(len(own)) < chance, own)
        level = rng.random(len(fell))
        change = np.where(level < noise / 2, -1, np.where(level > 1 - noise / 2, 1, 0))
        return *answers(np.where(fell, -1, change)), codes(own)

    how = "larger clusters fall more often" if by_size else "whole clusters fall"
    return Cell(f"{name}, {how}, noise {noise:g}, margin {margin:g}", margin, draw)


def normal(items, deviation, margin, size=1, correlation=0.0):
    """Graded differences that are normal, cut at three deviations."""

    def draw(drop, rng):
        own = np.full(items // size, size)
        theirs = rng.uniform(0.53, 0.57, items)
        moved = np.clip(latent(own, correlation, rng), -3, 3) * deviation
        return theirs - drop + moved, theirs, codes(own)

    name = f"{items} items" + (f" in clusters of {size}, correlation {correlation:g}" if size > 1 else "")
    name += f", normal, deviation {deviation:g}, margin {margin:g}"
    return Cell(name, margin, draw, (deviation**2, True), items)


def skewed(items, margin, small=0.01, large=0.9, jitter=0.0, size=1):
    """Most items move by about -small, few so far that the mean is the drop: falls, at no drop rises."""

    def draw(drop, rng):
        count = items // size
        target = small - drop  # of the few, above the rest
        few = rng.random(count) < abs(target) / (large + math.copysign(small, target))
        moved = np.where(few, math.copysign(large, target), -small + jitter * rng.uniform(-1, 1, count))
        theirs = np.where(few, 0.95 if target < 0 else 0.05, rng.uniform(0.1, 0.95, count))
        change, theirs = np.repeat(moved, size), np.repeat(theirs, size)
        return theirs + change, theirs, codes(np.full(count, size))

    name = f"{items} items" + (f" in clusters of {size}, correlation 1" if size > 1 else "")
    name += f", most by -{small:g}" + (f" ± {jitter:g}" if jitter else "") + f", few by {large:g}"
    return Cell(f"{name}, margin {margin:g}", margin, draw)


def constant(items, margin):
    """Every item moves by exactly the drop: no variance at any truth."""

    def draw(drop, rng):
        theirs = rng.uniform(0.1, 0.95, items)
        return theirs - drop, theirs, np.arange(items)

    return Cell(f"{items} items, all by the drop, no variance, margin {margin:g}", margin, draw)


def ends(items, margin, changed=0.15):
    """Scores 0, 1/2 and 1; what changes goes to an end."""

    def draw(drop, rng):
        theirs = rng.choice([0.0, 0.5, 1.0], items)
        moved = np.where(rng.random(items) < changed, rng.choice([0.0, 1.0], items), theirs)
        return np.where(rng.random(items) < 2 * drop, 0.0, moved), theirs, np.arange(items)

    return Cell(f"{items} items at 0, 1/2 and 1, {changed:g} changed, margin {margin:g}", margin, draw)


def blocks(count, size):
    return [size] * count


BIG, HUGE, MIXED = [90] + [1] * 510, [200] + [1] * 300, [20] * 10 + [1] * 200
SINGLE = [
    binary(f"{n} items", blocks(n, 1), d, m)
    for n, d, m in (
        (100, 0.06, 0.06),
        (100, 0.15, 0.10),
        (200, 0.10, 0.06),
        (285, 0.10, 0.05),
        (500, 0.20, 0.05),
        (1319, 0.15, 0.03),
    )
]
EVEN = [
    binary(f"{n} items in clusters of {k}", blocks(n // k, k), d, m, r)
    for n, k, d, m, r in (
        (150, 3, 0.10, 0.08, 0.3),
        (300, 3, 0.15, 0.06, 0.8),
        (500, 5, 0.10, 0.05, 0.5),
        (750, 3, 0.20, 0.05, 0.5),
        (1200, 3, 0.15, 0.05, 1.0),
    )
] + [whole_falls("500 items in clusters of 5", blocks(100, 5), 0.05, 0.1, False)]
FEW = [
    binary("200 items in clusters of 10", blocks(20, 10), 0.10, 0.05, 0.5),
    binary("60 items in clusters of 6", blocks(10, 6), 0.20, 0.15, 0.5),
]
UNEVEN = [
    binary(f"{n} items in geometric clusters of mean 4", lambda rng, n=n: geometric(n, 4, rng), d, 0.05, r)
    for n, d, r in ((200, 0.05, 1), (200, 0.10, 0.3), (1000, 0.05, 1), (1000, 0.10, 0), (1000, 0.10, 0.5))
]
UNEVEN += [
    binary("600 items, one of the clusters 15 %, others single", BIG, 0.05, 0.05, r, False) for r in (0, 1)
]
UNEVEN += [
    binary("500 items, one of the clusters 40 %, others single", HUGE, 0.10, 0.05, 1, False),
    binary("400 items, ten clusters of 20, 200 single", MIXED, 0.10, 0.05, 0.5, False),
]
BY_SIZE = [
    whole_falls("1000 items in geometric clusters", lambda rng: geometric(1000, 4, rng), 0.05, 0.0, True),
    whole_falls("1000 items in geometric clusters", lambda rng: geometric(1000, 4, rng), 0.05, 0.1, True),
    whole_falls("400 items, ten clusters of 20, 200 single", MIXED, 0.05, 0.1, True),
    whole_falls("600 items, one of the clusters 15 %, others single", BIG, 0.05, 0.0, True),
]
GRADED = [
    normal(60, 0.15, 0.05),
    normal(100, 0.15, 0.05),
    normal(200, 0.15, 0.03),
    normal(150, 0.15, 0.05, 3, 0.5),
    normal(300, 0.15, 0.05, 3, 0.5),
    ends(60, 0.05),
    ends(200, 0.05),
]
SKEWED = [
    *(skewed(n, 0.05) for n in (30, 100, 300, 600)),
    skewed(300, 0.05, size=3),
    *(skewed(n, 0.05, small=0.045, jitter=0.005) for n in (60, 600)),
    *(skewed(n, 0.05, large=0.95, small=0.03) for n in (60, 200)),
    *(constant(n, 0.05) for n in (30, 60, 200)),
]
