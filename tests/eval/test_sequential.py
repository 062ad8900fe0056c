"""The betting test: exact on every sequence of small cases, by Monte Carlo, and as properties."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_harness.stats.clustered import clusters_of
from eval_harness.stats.sequential import bets_against, log_capital, looks, lower_end

# populations of clusters (sum, size, probability) whose mean E[T] / E[n] is exactly delta
NULLS = {
    "single items, all changes falls": (-0.25, [(-1, 1, 0.25), (0, 1, 0.75)]),
    "single items, both ways": (-0.05, [(-1, 1, 0.125), (0, 1, 0.8), (1, 1, 0.075)]),
    "no change": (0.0, [(-1, 1, 0.3), (0, 1, 0.4), (1, 1, 0.3)]),
    # E[T] = -0.75, E[n] = 1.5: the large clusters alone fall
    "falls by size": (-0.5, [(-3, 3, 0.25), (0, 1, 0.75)]),
}
LARGEST = 3


def capitals(population, delta, length):
    """(probability, capital after every cluster) of every sequence."""
    for sequence in itertools.product(population, repeat=length):
        sums, sizes, chances = (np.array(column) for column in zip(*sequence))
        bets = bets_against(sums.astype(float), sizes, LARGEST, delta)
        yield float(chances.prod()), np.exp(log_capital(bets, np.arange(1, length + 1)))


@pytest.mark.parametrize("name", NULLS)
def test_the_capital_is_a_martingale_at_the_null_and_falls_below_it(name):
    delta, population = NULLS[name]
    assert sum(t * p for t, _, p in population) == pytest.approx(delta * sum(n * p for _, n, p in population))
    for tested, exact in ((delta, True), (delta + 0.1, False)):
        mean = sum(p * capital for p, capital in capitals(population, tested, 5))
        assert all(mean > 0)
        if exact:
            assert mean == pytest.approx(np.ones(5), abs=1e-12)
        else:  # the true mean lies below the tested one
            assert all(np.diff([1.0, *mean]) < 0)


@pytest.mark.parametrize("name", NULLS)
def test_ever_reaching_one_over_alpha_is_rarer_than_alpha_exactly(name):
    delta, population = NULLS[name]
    for alpha in (0.5, 0.2, 0.05):
        reached = sum(p for p, capital in capitals(population, delta, 7) if capital.max() >= 1 / alpha)
        assert reached <= alpha


def test_the_capital_by_monte_carlo_with_uneven_clusters():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5, (40_000, 60))
    sums = -sizes * (rng.random(sizes.shape) < 0.1)  # whole clusters fall, mean -0.1
    bets = bets_against(sums.astype(float), sizes, 4, -0.1)
    capital = np.exp(log_capital(bets, np.array([1, 10, 60])))
    assert capital.min() >= 0
    error = capital.std(axis=0) / math.sqrt(len(capital))
    assert all(np.abs(capital.mean(axis=0) - 1) < 4 * error)


cases = st.lists(
    st.tuples(st.floats(-1, 1), st.integers(1, 4)).map(lambda pair: (pair[0] * pair[1], pair[1])),
    min_size=1,
    max_size=25,
)


def split(rows):
    return np.array([t for t, _ in rows]), np.array([n for _, n in rows])


@given(cases, st.floats(0.01, 0.4))
def test_the_interval_of_a_look_holds_the_mean_and_ends_where_the_bet_wins(rows, alpha):
    sums, sizes = split(rows)
    low, high = lower_end(sums, sizes, 4, alpha), -lower_end(-sums, sizes, 4, alpha)
    assert -1 <= low <= sums.sum() / sizes.sum() <= high <= 1
    if low > -1:
        at_low = log_capital(bets_against(sums, sizes, 4, low), np.array([len(sums)]))
        assert at_low == pytest.approx(-math.log(alpha), abs=1e-3)


@given(cases, st.randoms(use_true_random=False))
def test_the_order_within_a_batch_changes_nothing(rows, rng):
    shuffled = rows.copy()
    rng.shuffle(shuffled)
    seen = []
    for one in (rows, shuffled):
        sums, sizes = split(one)
        codes = np.repeat(np.arange(len(sizes)), sizes)
        seen += looks((sums / sizes)[codes], clusters_of(codes.tolist()), [len(sizes)], 4, 0.05)
    assert seen[0] == pytest.approx(seen[1], abs=1e-6)


@given(cases)
def test_a_smaller_margin_is_never_easier(rows):
    sums, sizes = split(rows)
    last = np.array([len(sums)])
    found = [float(log_capital(bets_against(sums, sizes, 4, d), last)[0]) for d in (-0.3, -0.1, 0.0, 0.2)]
    assert found == sorted(found, reverse=True)


def test_looks_keep_what_they_have_shown():
    rng = np.random.default_rng(3)
    values = rng.choice([-1.0, 0.0, 1.0], 600, p=[0.15, 0.83, 0.02])
    seen = looks(values, clusters_of(range(600)), list(range(20, 601, 20)), 1, 0.05)
    assert [look.items for look in seen] == list(range(20, 601, 20))
    for before, after in itertools.pairwise(seen):
        assert after.low >= before.low
        assert after.high <= before.high
        assert after.p <= before.p
    assert seen[-1].low < -0.13 < seen[-1].high < 0
    assert seen[-1].p < 0.05


def test_twenty_unchanged_items_by_hand():
    # capital at margin m: mean over f of (1 + f m / (1 - m))^n
    n, margin = 20, 0.2
    bets = bets_against(np.zeros(n), np.ones(n, dtype=int), 1, -margin)
    fractions = [0.98 * 2 ** (-j / 2) for j in range(9)]
    by_hand = sum((1 + f * margin / (1 - margin)) ** n for f in fractions) / 9
    assert math.exp(log_capital(bets, np.array([n]))[0]) == pytest.approx(by_hand)


def test_what_was_stated_beforehand_is_held_to():
    with pytest.raises(ValueError, match="cluster of 5 items, stated at most 4"):
        bets_against(np.array([0.0]), np.array([5]), 4, 0.0)
    with pytest.raises(ValueError, match="fell by more than"):
        bets_against(np.array([-1.0]), np.array([1]), 4, 0.0, fall=0.5)
