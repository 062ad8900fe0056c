"""Repeats of every item, pass@k, and the power of repeats and of log-likelihoods."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import metric_sharpness
from eval_harness.errors import UserError
from eval_harness.gate.gates import check_power, parse_gates
from eval_harness.stats import likelihood, power, repeats
from eval_harness.stats.paired import paired


def test_mean_at_k_is_paired_by_item_and_repeat():
    found = paired([1, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 1], 0.05)
    assert (found.n, found.clusters, found.difference) == (4, 2, 0.5)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples(scores, data):
    k = data.draw(st.integers(1, len(scores)))
    choices = list(itertools.combinations(scores, k))
    assert repeats.unbiased_pass(scores, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_pass_at_k_is_unbiased():
    # E over Binomial(n, p) of 1 - C(n - c, k) / C(n, k) = 1 - (1 - p)^k
    n, p, k = 8, 0.3, 3
    mean = sum(
        math.comb(n, c) * p**c * (1 - p) ** (n - c) * repeats.unbiased_pass([1] * c + [0] * (n - c), k)
        for c in range(n + 1)
    )
    assert mean == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize(
    ("scores", "k", "message"),
    [([1, 0], 3, "2 samples of an item"), ([1, 0], 0, "at least 1"), ([0.5], 1, "right")],
)
def test_samples_of_which_no_k_can_be_drawn(scores, k, message):
    with pytest.raises(ValueError, match=message):
        repeats.unbiased_pass(scores, k)


def test_correlation_of_repeats():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, math.sqrt(0.4), (4000, 1))
    assert repeats.repeat_correlation(shared + rng.normal(0, math.sqrt(0.6), (4000, 5))) == pytest.approx(
        0.4, abs=0.03
    )
    assert repeats.repeat_correlation(np.repeat(rng.random((30, 1)), 4, axis=1)) == pytest.approx(1)
    assert repeats.repeat_correlation(np.zeros((5, 3))) == 1.0
    assert repeats.repeat_effect(4, 0.4) == pytest.approx(2.2)
    assert repeats.repeat_effect(1, 0.7) == 1.0


def test_power_formula_knows_repeats():
    alone = power.keep_power(300, 0.1, 0.05, 0.05)
    # repeats that always agree are one
    assert power.keep_power(300, 0.1, 0.05, 0.05, repeats=4, correlation=1.0) == pytest.approx(alone)
    more = [power.keep_power(300, 0.1, 0.05, 0.05, repeats=4, correlation=r) for r in (0.8, 0.4, 0.1)]
    assert alone < more[0] < more[1] < more[2]
    assert power.items_for_power(0.1, 0.05, 0.05, repeats=4, correlation=0.1) < power.items_for_power(
        0.1, 0.05, 0.05
    )
    # no number of repeats makes up for items that were not asked
    assert power.keep_power(50, 0.01, 0.05, 0.05, repeats=1000, correlation=0.0) < 0.05


def test_power_of_repeats_by_simulation():
    rng, kept, reps = np.random.default_rng(1), 0, 300
    items, k, share = 150, 4, 0.3  # of an item's chance that all its repeats share
    for _ in range(reps):
        shared = rng.random((items, 1)) < share
        level = np.where(shared, rng.random((items, 1)), rng.random((items, k)))
        change = np.where(level < 0.06, -1, np.where(level > 0.94, 1, 0))
        theirs = np.where(change == 1, 0, 1)
        clusters = np.repeat(np.arange(items), k).tolist()
        found = paired((theirs + change).ravel().tolist(), theirs.ravel().tolist(), clusters, 0.05)
        kept += found.low > -0.06
    formula = power.keep_power(items, 0.12, 0.06, 0.05, repeats=k, correlation=share)
    assert kept / reps == pytest.approx(formula, abs=0.09)


def test_probability_per_byte():
    found = likelihood.probability_per_byte(np.array([0.0, math.log(0.25)]), np.array([3, 2]))
    assert found.tolist() == pytest.approx([1.0, 0.5])
    for bad in (([0.1], [1]), ([math.nan], [1]), ([-1.0], [0]), ([-1.0], [1, 2]), ([], [])):
        with pytest.raises(ValueError, match="got"):
            likelihood.probability_per_byte(*map(np.array, bad))


def test_items_to_detect_by_hand_and_without_units():
    rng = np.random.default_rng(0)
    values = rng.normal(-0.05, 0.3, 400)
    # (1.6449 + 0.8416)^2 sd^2 / mean^2
    expected = (2.4865 * values.std(ddof=1) / values.mean()) ** 2
    assert metric_sharpness.items_to_detect(values, range(400), 0.05) == pytest.approx(expected, abs=1)
    assert metric_sharpness.items_to_detect(values * 700, range(400), 0.05) == pytest.approx(expected, abs=1)
    for values, labels in ((np.zeros(5), range(5)), (np.ones(5), [0] * 5)):
        with pytest.raises(ValueError, match="mean difference"):
            metric_sharpness.items_to_detect(values, labels, 0.05)


def test_validate_knows_repeats():
    spec = {"items": 200, "discordance": 0.3, "margin": 0.06}

    def line(**more):
        return check_power(parse_gates({"version": 1, "gates": {"t": {**spec, **more}}}), None, True)[0]

    one, eight, same = line(), line(repeats=8, correlation=0.2), line(repeats=8)
    powers = [float(text.split("power ")[1].split(" ")[0]) for text in (one, eight, same)]
    assert powers[0] == powers[2] < 0.6 < powers[1]
    assert "8 repeats of correlation 0.2" in eight


@pytest.mark.parametrize("bad", [{"repeats": 0}, {"repeats": 1.5}, {"correlation": 2}])
def test_repeats_that_are_none(bad):
    with pytest.raises(UserError, match="gate t"):
        parse_gates({"version": 1, "gates": {"t": bad}})
