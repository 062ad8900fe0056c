"""Pairwise covers: few cells in which every pair of two factors' values meets at least once."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence

Cell = tuple[str, ...]
Pair = tuple[tuple[str, str], tuple[str, str]]


def pairs_of(cell: Cell, names: Sequence[str]) -> set[Pair]:
    """Every pair of (factor, value) that a cell contains."""
    return set(itertools.combinations(zip(names, cell), 2))


def uncovered(cells: Iterable[Cell], factors: Mapping[str, Sequence[str]]) -> set[Pair]:
    """Pairs of values of two factors that no cell contains."""
    names = list(factors)
    everything = itertools.product(*factors.values())
    missing = set().union(*(pairs_of(cell, names) for cell in everything))
    return missing.difference(*(pairs_of(cell, names) for cell in cells))


def pairwise_cover(
    factors: Mapping[str, Sequence[str]], required: Sequence[Cell], *, tries: int = 50
) -> list[Cell]:
    """Find a small cover that contains the required cells: greedy, the best of some seeded orders."""
    names, everything = list(factors), list(itertools.product(*factors.values()))
    best: list[Cell] = everything
    for seed in range(tries):
        order = random.Random(seed).sample(everything, len(everything))
        cells, missing = list(required), uncovered(required, factors)
        while missing:
            cells.append(max(order, key=lambda cell: len(pairs_of(cell, names) & missing)))
            missing -= pairs_of(cells[-1], names)
        best = min(best, cells, key=len)
    return best
