"""Statistics against hand-computed values, brute force, exact enumeration, and as properties."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from eval_harness.stats import binary, clustered, multiple, paired, power, tilting

Z = float(stats.norm.ppf(0.95))
counts = st.integers(0, 30)


# -- McNemar and its extension to clusters


def test_mcnemar_by_hand():
    # 8 lost, 2 gained: P(Bin(10, 1/2) >= 8) = (45 + 10 + 1) / 1024
    assert binary.mcnemar(8, 2) == pytest.approx(56 / 1024, rel=1e-12)
    assert binary.mcnemar(2, 8) == pytest.approx(1013 / 1024, rel=1e-12)
    assert binary.mcnemar(0, 0) == 1.0
    assert binary.mcnemar(5, 0) == pytest.approx(1 / 32, rel=1e-12)


@given(lost=counts, gained=counts)
def test_mcnemar_against_counting(lost, gained):
    n = lost + gained
    assert binary.mcnemar(lost, gained) == pytest.approx(
        sum(math.comb(n, k) for k in range(lost, n + 1)) / 2**n, rel=1e-9
    )


@given(st.lists(st.integers(-4, 4), max_size=9))
def test_sign_flip_against_all_sign_patterns(totals):
    observed = sum(totals)
    patterns = list(itertools.product((-1, 1), repeat=len(totals)))
    reached = sum(sum(s * abs(t) for s, t in zip(p, totals)) <= observed for p in patterns)
    assert binary.sign_flip(np.array(totals, dtype=float)) == pytest.approx(reached / len(patterns), rel=1e-9)


@given(lost=counts, gained=counts)
def test_sign_flip_of_single_items_is_mcnemar(lost, gained):
    totals = np.array([-1.0] * lost + [1.0] * gained + [0.0] * 5)
    assert binary.sign_flip(totals) == pytest.approx(binary.mcnemar(lost, gained), rel=1e-9)


# -- clustered standard errors


def test_clustered_error_by_hand():
    # d = 1, 0 | -1, -1 | 1, 0, 0; mean 0; cluster sums 1, -2, 1; squares 1 + 4 + 1 = 6;
    # SE = sqrt(6) / 7 * sqrt(3 / 2) = 3 / 7
    groups = clustered.clusters_of(["a", "a", "b", "b", "c", "c", "c"])
    found = clustered.clustered_mean(np.array([1.0, 0, -1, -1, 1, 0, 0]), groups)
    assert found.mean == 0
    assert found.stderr == pytest.approx(3 / 7, rel=1e-12)
    assert found.df == 2


def sandwich(values, labels):
    """The same error as a sandwich over explicit residual pairs: an independent program."""
    n, mean = len(values), sum(values) / len(values)
    groups = len(set(labels))
    meat = sum(
        (values[i] - mean) * (values[j] - mean) for i in range(n) for j in range(n) if labels[i] == labels[j]
    )
    return math.sqrt(max(0.0, meat) / n**2 * groups / (groups - 1))


rows = st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 1.0]), st.integers(0, 5)), min_size=2, max_size=25)


@given(rows)
def test_clustered_error_against_the_sandwich(found):
    values, labels = [v for v, _ in found], [c for _, c in found]
    estimate = clustered.clustered_mean(np.array(values), clustered.clusters_of(labels))
    if len(set(labels)) < 2:
        assert math.isnan(estimate.stderr)
    else:
        assert estimate.stderr == pytest.approx(sandwich(values, labels), abs=1e-9)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20), st.integers(2, 4))
def test_copies_of_an_item_in_its_cluster_add_nothing(values, copies):
    once = clustered.clustered_mean(np.array(values), clustered.clusters_of(range(len(values))))
    repeated = np.repeat(values, copies)
    labels = np.repeat(np.arange(len(values)), copies).tolist()
    often = clustered.clustered_mean(repeated, clustered.clusters_of(labels))
    assert often.stderr == pytest.approx(once.stderr, abs=1e-12)
    assert once.stderr == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), abs=1e-12)


def test_design_effect_of_whole_clusters_and_of_single_items():
    values = np.array([1.0, 0, 0, -1, 0, 0, 1, 0] * 5)
    assert clustered.design_effect(values, clustered.clusters_of(range(40))) == 1.0
    five = clustered.design_effect(
        np.repeat(values, 5), clustered.clusters_of(np.repeat(np.arange(40), 5).tolist())
    )
    assert five == pytest.approx(5, rel=0.03)  # factors n / (n - 1) and G / (G - 1) differ
    # nothing changed: as if clusters moved as one
    groups = clustered.clusters_of([0, 0, 0, 1])
    assert clustered.design_effect(np.zeros(4), groups) == (9 + 1) / 4


# -- Holm


def test_holm_by_hand():
    assert multiple.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert multiple.holm([0.7, 0.9]) == [1.0, 1.0]
    assert multiple.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_against_closed_testing(p_values):
    """Holm is the closure of Bonferroni: the largest |S| min_S p over all sets S that hold the hypothesis."""
    k = len(p_values)
    sets = [s for size in range(1, k + 1) for s in itertools.combinations(range(k), size)]
    for i, adjusted in enumerate(multiple.holm(p_values)):
        closed = max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets if i in s)
        assert adjusted == pytest.approx(closed, abs=1e-12)


# -- Tango's score test and interval


@pytest.mark.parametrize(
    ("lost", "gained", "delta"), [(7, 3, -0.05), (0, 0, -0.03), (0, 4, -0.1), (5, 0, 0.02)]
)
def test_restricted_estimate_against_numerical_likelihood(lost, gained, delta):
    n = 80

    def loss(p_lost):
        p_gained = p_lost + delta
        p_same = 1 - p_lost - p_gained
        terms = [(lost, p_lost), (gained, p_gained), (n - lost - gained, p_same)]
        return -sum(c * math.log(max(p, 1e-300)) for c, p in terms if c)

    low, high = max(0.0, -delta), (1 - delta) / 2
    p_lost = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    variance = 2 * p_lost + delta - delta**2  # p_lost + p_gained - delta^2
    assert binary.null_variance(lost / n, gained / n, delta) == pytest.approx(variance, abs=1e-6)


def test_nothing_changed_still_leaves_room_for_a_drop():
    # Tango at lost = gained = 0: z^2 = n m / (1 - m), so the bound is z^2 / (n + z^2)
    for n in (20, 100):
        low, high = binary.score_interval(0, 0, n, Z)
        assert low == pytest.approx(-(Z**2) / (n + Z**2), rel=1e-6)
        assert high == pytest.approx(-low, rel=1e-6)


@given(lost=counts, gained=counts, same=st.integers(0, 200))
def test_interval_ends_are_where_the_score_test_begins_to_reject(lost, gained, same):
    n = lost + gained + same
    if n < 2:
        return
    low, high = binary.score_interval(lost, gained, n, Z)
    assert -1 <= low <= (gained - lost) / n <= high <= 1
    if low > -1:
        assert binary.score(lost, gained, n, low) == pytest.approx(Z, abs=1e-5)
    if high < 1:
        assert binary.score(lost, gained, n, high) == pytest.approx(-Z, abs=1e-5)
    mirrored = binary.score_interval(gained, lost, n, Z)
    assert mirrored == pytest.approx((-high, -low), abs=1e-6)


def trinomial(n, p_lost, p_gained):
    """(lost, gained, probability) of all outcomes that matter."""
    for lost in range(n + 1):
        first = stats.binom.pmf(lost, n, p_lost)
        if first > 1e-9:
            law = stats.binom.pmf(np.arange(n - lost + 1), n - lost, p_gained / (1 - p_lost))
            yield from ((lost, g, first * law[g]) for g in np.flatnonzero(law > 1e-9))


def kept_rate(n, p_lost, p_gained, margin):
    """P(KEPT), by enumeration: no simulation, no approximation."""
    return sum(
        p for lost, gained, p in trinomial(n, p_lost, p_gained) if binary.score(lost, gained, n, -margin) > Z
    )


@pytest.mark.parametrize(
    ("n", "margin", "discordance"), [(60, 0.05, 0.05), (100, 0.03, 0.03), (150, 0.05, 0.12)]
)
def test_false_kept_at_the_margin_is_at_most_about_alpha(n, margin, discordance):
    # the plain Wald interval would reach 0.19 in the second case
    rate = kept_rate(n, (discordance + margin) / 2, (discordance - margin) / 2, margin)
    assert 0.01 < rate <= 0.056


@pytest.mark.parametrize(
    ("n", "margin", "discordance"), [(150, 0.06, 0.1), (120, 0.05, 0.05), (150, 0.1, 0.25)]
)
def test_power_formula_against_enumeration(n, margin, discordance):
    exact = kept_rate(n, discordance / 2, discordance / 2, margin)
    assert power.keep_power(n, discordance, margin, 0.05) == pytest.approx(exact, abs=0.04)


def test_items_for_power_is_the_first_that_reaches_it():
    n = power.items_for_power(0.1, 0.05, 0.05)
    assert power.keep_power(n, 0.1, 0.05, 0.05) >= 0.8 > power.keep_power(n - 1, 0.1, 0.05, 0.05)
    # the textbook formula, to which it converges: ((1.645 + 0.842) sqrt(0.1) / 0.01)^2 = 6183
    assert power.items_for_power(0.1, 0.01, 0.05) == pytest.approx(6183, rel=0.02)
    assert power.items_for_power(0.1, 0.05, 0.05, effect=3) == pytest.approx(3 * n, abs=3)
    thrice = power.keep_power(3 * n, 0.1, 0.05, 0.05, effect=3)
    assert thrice == pytest.approx(power.keep_power(n, 0.1, 0.05, 0.05))
    # graded scores of large variance: the textbook formula, ((1.645 + 0.842) 0.3 / 0.05)^2 = 222.6;
    # of small variance: enough items that 0.05 cannot have fallen unseen, 0.8416 sd / sqrt(n) to spare
    assert power.items_for_power(0.3**2, 0.05, 0.05, graded=True) == 223
    few = power.items_for_power(0.02**2, 0.05, 0.05, graded=True)
    assert power.unseen_drop(few, 0.05) == pytest.approx(0.05 - 0.8416 * 0.02 / math.sqrt(few), abs=1e-3)
    margin = power.margin_for_power(200, 0.1, 0.05)
    assert power.keep_power(200, 0.1, margin, 0.05) >= 0.8 > power.keep_power(200, 0.1, margin - 0.001, 0.05)


def test_power_knows_that_few_clusters_hide_the_fall_of_one():
    # 20 clusters of 10 whose items hardly depend on each other: none of 20 falls in (1 - 0.05)^20 = 0.36
    loose = power.keep_power(200, 0.1, 0.05, 0.05, effect=3.0)
    strict = power.keep_power(200, 0.1, 0.05, 0.05, effect=3.0, whole=10.0)
    assert strict < 0.05 < loose
    assert power.unseen_drop(20, 0.05) == pytest.approx(0.139, abs=1e-3)


def test_items_to_decide_by_hand():
    # 14 lost, 4 gained of 100 at margin 0.05: too large a drop for KEPT, REGRESSED at alpha / tests:
    # sd0^2 = 0.18, sd1^2 = 0.18 - 0.01 = 0.17, n = ((1.6449 sqrt(0.18) + 0.8416 sqrt(0.17)) / 0.1)^2 = 109.2;
    # for one of six tests z = 2.3940: 185.7
    found = paired.paired([1] * 60 + [0] * 14 + [1] * 4 + [0] * 22, [1] * 74 + [0] * 26, range(100), 0.05)
    assert (found.lost, found.gained, found.difference) == (14, 4, pytest.approx(-0.1))
    assert power.items_to_decide(found, 0.05, 0.05, 1) == 110
    assert power.items_to_decide(found, 0.05, 0.05, 6) == 186


# -- graded scores and clusters: tilting


def test_tilting_is_the_paired_t_test_where_differences_are_normal():
    rng = np.random.default_rng(0)
    theirs = rng.random(400)
    ours = np.clip(theirs + rng.normal(-0.03, 0.3, 400), 0, 1)
    found = paired.paired(ours, theirs, range(400), 0.05)
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.9)
    assert found.method == paired.TILTING
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.002)
    reference = stats.ttest_rel(ours, theirs, alternative="less").pvalue
    assert found.p == pytest.approx(reference, rel=0.2)


def reached_by_enumeration(population, sample, delta):
    """P(the sum of independent draws reaches the observed sum), over every outcome."""
    values = [*sample.rates, delta - population.fall]
    weights = [*population.weights, population.unseen]
    observed, total = float(sample.rates @ sample.sizes), 0.0
    for draw in itertools.product(range(len(values)), repeat=len(sample.sizes)):
        reached = sum(size * values[i] for size, i in zip(sample.sizes, draw))
        total += math.prod(weights[i] for i in draw) * (reached >= observed - 1e-9)
    return total


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [2, 2, 2, 2], [1, 1, 2, 4]])
@pytest.mark.parametrize("rates", [[-0.5, 0, 0, 0.5], [0, 0, 0, 0], [0.25, -1, 0, 0]])
def test_the_transform_against_every_outcome(rates, sizes):
    sample = tilting.sorted_rates(np.array(rates, dtype=float), np.array(sizes))
    for delta in (-0.6, -0.3):
        if sample.mean <= delta:
            continue
        population = tilting.likeliest(sample.rates - delta, sample.shares, 1 + delta)
        mean = population.weights @ population.distances - population.unseen * population.fall
        assert mean == pytest.approx(0, abs=1e-6)
        assert population.weights.sum() + population.unseen == pytest.approx(1)
        exact = reached_by_enumeration(population, sample, delta)
        assert tilting._reached(population, sample, delta) == pytest.approx(exact, abs=2e-3)


def test_without_variance_only_what_was_not_seen_remains():
    # 60 items each 0.01 worse; the drop is 0.01, and (1 - e)^60 = 0.05 leaves e = 0.0487 unseen falls by 1
    rng = np.random.default_rng(0)
    theirs = rng.uniform(0.2, 0.9, 60).round(3)
    found = paired.paired(theirs - 0.01, theirs, range(60), 0.05)
    assert found.low == pytest.approx(-0.01 - 0.99 * power.unseen_drop(60, 0.05), abs=1e-4)
    assert found.low < found.difference < found.high
    assert found.p > 0.4
    # a win rate's baseline is the constant 0.5: nothing falls by more
    level = paired.paired([0.49] * 60, [0.5] * 60, range(60), 0.05)
    assert level.low == pytest.approx(-0.01 - 0.49 * power.unseen_drop(60, 0.05), abs=1e-4)


@pytest.mark.parametrize("above", [0.0, 7e-18, 5e-17])
def test_a_mean_at_the_tested_drop_but_for_rounding_is_not_above_it(above):
    sample = tilting.sorted_rates(np.full(60, -0.05), np.ones(60, dtype=np.int64))
    assert tilting.p_above(sample, 1.0, -0.05 - above) == 1.0
    noisy = tilting.sorted_rates(np.arange(60) * 1e-17 - 0.05, np.ones(60, dtype=np.int64))
    assert tilting.p_above(noisy, 1.0, -0.05 - above) == 1.0


def test_two_clusters_with_equal_means_say_next_to_nothing():
    found = paired.paired([1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1], 0.05)
    assert (found.difference, found.stderr) == (0, 0)
    # (1 - e)^2 = 0.05
    assert (found.low, found.high) == pytest.approx((-0.776, 0.776), abs=1e-3)


def test_a_difference_that_only_one_item_lacks_is_not_trusted():
    theirs = np.full(100, 0.6)
    theirs[0] = 0.9
    ours = np.where(np.arange(100) == 0, 0.0, theirs)
    found = paired.paired(ours, theirs, range(100), 0.05)
    t = stats.ttest_rel(ours, theirs).confidence_interval(0.9)
    assert found.low < t.low  # one seen fall of 0.9: 4.7 are possible, t says 2.7
    assert found.low == pytest.approx(-0.9 * 4.7 / 100, abs=0.004)


@pytest.mark.parametrize(
    ("n", "small", "fall"), [(80, 0.0, 0.9), (100, 0.01, 0.9), (200, 0.03, 0.95), (250, 0.01, 0.5)]
)
def test_false_kept_where_a_few_items_fall_far_by_enumeration(n, small, fall):
    # the drop is exactly 0.05; Student's t calls it KEPT in up to 0.2
    rate, by_t, p = 0.0, 0.0, (0.05 - small) / (fall - small)
    for fallen in range(n // 4):
        rates = np.full(n, -small)
        rates[:fallen] = -fall
        sample = tilting.sorted_rates(rates, np.ones(n, dtype=np.int64))
        chance = float(stats.binom.pmf(fallen, n, p))
        rate += chance * (tilting.p_above(sample, 1.0, -0.05) < 0.05)
        by_t += chance * (rates.mean() - Z * rates.std(ddof=1) / math.sqrt(n) > -0.05)
    # discrete, so not at 0.05: 0.067 in the third case, the most of two hundred tried
    assert 0.001 < rate < 0.068
    assert by_t > rate


scores = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5]))
graded = st.lists(st.tuples(scores, scores, st.integers(0, 8)), min_size=2, max_size=30).filter(
    lambda rows: len({c for _, _, c in rows}) > 1
)


@given(graded, st.booleans(), st.floats(0, 1))
def test_an_interval_holds_its_estimate(rows, single, shift):
    labels = list(range(len(rows))) if single else [c for _, _, c in rows]
    theirs = np.array([b for _, b, _ in rows])
    for ours in ([a for a, _, _ in rows], theirs.tolist(), (theirs * shift).tolist()):
        found = paired.paired(ours, theirs.tolist(), labels, 0.05)
        assert -1 <= found.low <= found.difference <= found.high <= 1
        assert 0 <= found.p <= 1


@given(graded)
def test_exchanged_models_mirror_graded_scores(rows):
    ours, theirs, labels = zip(*rows)
    if len(set(ours)) == 1 or len(set(theirs)) == 1:
        return  # a constant side is no sample and bounds what can fall
    one, other = (paired.paired(a, b, labels, 0.05) for a, b in ((ours, theirs), (theirs, ours)))
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-5)


def test_no_size_of_cluster_is_trusted_more_than_another():
    # one story of 90 questions that nobody lost, 25 of 510 single questions lost
    sizes = [90] + [1] * 510
    labels = np.repeat(np.arange(511), sizes).tolist()
    ours = np.ones(600)
    ours[90:105] = 0
    found = paired.paired(ours, np.ones(600), labels, 0.05)
    assert found.difference == -0.025
    assert found.low < -0.05  # the story may fall too
    assert found.effective == pytest.approx(600**2 / (90**2 + 510))


# -- the whole comparison


samples = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 7)), min_size=2, max_size=40
).filter(lambda rows: len({c for _, _, c in rows}) > 1)


@given(samples, st.booleans())
def test_swapping_the_models_mirrors_the_comparison(found, single):
    a, b = [x for x, _, _ in found], [y for _, y, _ in found]
    labels = list(range(len(found))) if single else [c for _, _, c in found]
    one, other = paired.paired(a, b, labels, 0.05), paired.paired(b, a, labels, 0.05)
    assert one.method == (paired.MCNEMAR if len(set(labels)) == len(labels) else paired.SIGN_FLIP)
    assert (one.difference, one.lost) == (-other.difference, other.gained)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-6)
    assert one.p + other.p >= 1 - 1e-12


@given(samples, st.randoms(use_true_random=False))
def test_order_and_names_of_clusters_change_nothing(found, rng):
    def compared(rows):
        return paired.paired(
            [x for x, _, _ in rows], [y for _, y, _ in rows], [f"q{c}" for *_, c in rows], 0.05
        )

    shuffled = found.copy()
    rng.shuffle(shuffled)
    one, other = compared(found), compared(shuffled)
    assert (one.low, one.high, one.p) == pytest.approx((other.low, other.high, other.p), abs=1e-9)


@given(samples)
def test_one_more_loss_never_looks_better(found):
    a, b = [x for x, _, _ in found], [y for _, y, _ in found]
    labels = list(range(len(found)))
    before = paired.paired(a, b, labels, 0.05)
    worse = next((i for i in range(len(a)) if a[i]), None)
    if worse is None:
        return
    a[worse] = 0
    after = paired.paired(a, b, labels, 0.05)
    assert after.p >= 0
    assert after.difference < before.difference
    assert after.low <= before.low + 1e-9
    assert after.p <= before.p + 1e-12


def test_dependence_within_clusters_widens_the_interval():
    rng = random.Random(0)
    theirs = [rng.randrange(2) for _ in range(60)]
    ours = [rng.randrange(2) if i % 4 == 0 else t for i, t in enumerate(theirs)]
    a, b = np.repeat(ours, 5).tolist(), np.repeat(theirs, 5).tolist()
    whole = paired.paired(a, b, np.repeat(np.arange(60), 5).tolist(), 0.05)
    naive = paired.paired(a, b, range(300), 0.05)
    once = paired.paired(ours, theirs, range(60), 0.05)
    assert whole.high - whole.low > 2 * (naive.high - naive.low)
    assert (whole.low, whole.p) == pytest.approx((once.low, once.p), abs=0.01)


def test_one_cluster_supports_no_inference():
    found = paired.paired([0] * 50, [1] * 50, ["story"] * 50, 0.05)
    assert (found.p, found.low, found.high, found.method) == (1.0, -1.0, 1.0, paired.NO_TEST)


@pytest.mark.parametrize(
    ("a", "b", "labels"), [([], [], []), ([1], [1, 0], [0]), ([1.2], [0], [0]), ([math.nan], [0], [0])]
)
def test_observations_that_are_none(a, b, labels):
    with pytest.raises(ValueError, match="got"):
        paired.paired(a, b, labels, 0.05)


def test_few_clusters_leave_the_fall_of_a_whole_one_possible():
    rng = random.Random(1)
    theirs = [rng.randrange(2) for _ in range(80)]
    ours = [rng.randrange(2) if i % 3 == 0 else t for i, t in enumerate(theirs)]
    found = paired.paired(ours, theirs, [i % 8 for i in range(80)], 0.05)
    t_low = found.difference - stats.t.ppf(0.95, 7) * found.stderr
    # P(none of 8 falls) = 0.05 at a share of 0.31: what t does not see
    assert t_low - 0.31 < found.low < t_low - 0.1
