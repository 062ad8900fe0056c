"""Statistics against hand-computed values, brute force, exact enumeration, and as properties."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from eval_harness.stats import binary, clustered, continuous, multiple, paired, power

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
    # graded scores: exactly the textbook formula, ((1.645 + 0.842) 0.15 / 0.05)^2 = 55.6
    assert power.items_for_power(0.15**2, 0.05, 0.05, graded=True) == 56
    margin = power.margin_for_power(200, 0.1, 0.05)
    assert power.keep_power(200, 0.1, margin, 0.05) >= 0.8 > power.keep_power(200, 0.1, margin - 0.001, 0.05)


def test_items_to_decide_by_hand():
    # 14 lost, 4 gained of 100 at margin 0.05: too large a drop for KEPT, REGRESSED at alpha / tests:
    # sd0^2 = 0.18, sd1^2 = 0.18 - 0.01 = 0.17, n = ((1.6449 sqrt(0.18) + 0.8416 sqrt(0.17)) / 0.1)^2 = 109.2;
    # for one of six tests z = 2.3940: 185.7
    found = paired.paired([1] * 60 + [0] * 14 + [1] * 4 + [0] * 22, [1] * 74 + [0] * 26, range(100), 0.05)
    assert (found.lost, found.gained, found.difference) == (14, 4, pytest.approx(-0.1))
    assert power.items_to_decide(found, 0.05, 0.05, 1) == 110
    assert power.items_to_decide(found, 0.05, 0.05, 6) == 186


# -- graded scores


def test_paired_t_by_hand_and_its_bootstrap():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(300) * 0.9, rng.random(300)
    found = paired.paired(ours, theirs, range(300), 0.05, seed=3)
    reference = stats.ttest_rel(ours, theirs, alternative="less")
    assert found.method == paired.PAIRED_T
    assert found.p == pytest.approx(reference.pvalue, rel=0.2)  # the more cautious of t and bootstrap
    assert found.p >= reference.pvalue * 0.999
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.003)
    assert found.low <= low + 1e-12
    assert found == paired.paired(ours, theirs, range(300), 0.05, seed=3)


def test_bootstrap_draws_clusters_not_items():
    rng = np.random.default_rng(1)
    values = np.repeat(rng.normal(0, 0.2, 60), 4)
    groups = clustered.clusters_of(np.repeat(np.arange(60), 4).tolist())
    spread = continuous.bootstrap_means(values, groups, seed=0).std()
    assert spread == pytest.approx(clustered.clustered_mean(values, groups).stderr, rel=0.05)
    alone = continuous.bootstrap_means(values, clustered.clusters_of(range(240)), seed=0).std()
    assert spread == pytest.approx(2 * alone, rel=0.08)


@pytest.mark.parametrize("changed", [0, 1, 3])
def test_graded_scores_that_hardly_changed_are_guarded(changed):
    theirs = np.full(60, 0.5)
    ours = theirs - np.where(np.arange(60) < changed, 0.5, 0.0)
    found = paired.paired(ours, theirs, range(60), 0.05)
    assert found.low <= binary.score_interval(changed, 0, 60, Z)[0] + 1e-9
    assert found.p >= binary.mcnemar(changed, 0)


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


def test_few_clusters_are_judged_by_t():
    rng = random.Random(1)
    theirs = [rng.randrange(2) for _ in range(80)]
    ours = [rng.randrange(2) if i % 3 == 0 else t for i, t in enumerate(theirs)]
    found = paired.paired(ours, theirs, [i % 8 for i in range(80)], 0.05)
    sample = [value / found.design_effect for value in (found.lost, found.gained, found.n)]
    assert binary.score(*sample, found.low) == pytest.approx(stats.t.ppf(0.95, 7), abs=1e-6)
