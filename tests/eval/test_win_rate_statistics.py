"""Win rates by hand, against alpaca-eval's recorded definition, and by simulation."""

import math
import random

import numpy as np
import pytest

from eval_harness.judges.types import FAILED, UNPARSABLE, Answer
from eval_harness.stats.agreement import cohen_kappa
from eval_harness.stats.length_control import fit, length_controlled
from eval_harness.win_rate.comparisons import Comparison, judgements, questions, tally
from eval_harness.win_rate.summary import win_rate


def pair(number, candidate="c", baseline="b", prompt=None):
    return Comparison("t", number, prompt or f"p{number}", candidate, baseline)


def test_both_orders_count_alike_and_ties_one_half():
    pairs = [pair(n) for n in range(6)]
    # value of an order: the share of the first text; the candidate is first, then second
    orders = [(1, 0), (1, 1), (0, 1), (0.5, 0.5), (0.9, 0.3), (0.5, 0)]
    answers = [Answer(float(v)) for two in orders for v in two]
    found = judgements(pairs, answers)
    assert [j.share for j in found] == pytest.approx([1.0, 0.5, 0.0, 0.5, 0.8, 0.75])
    assert [j.biased for j in found] == [False, True, False, False, False, False]
    count = tally(pairs, found)
    assert (count.wins, count.ties, count.losses) == (3, 2, 1)
    assert count.position_bias == pytest.approx(1 / 6)
    assert count.first_place == pytest.approx(sum(map(sum, orders)) / 12)


def test_texts_stand_in_both_places_and_equal_texts_are_not_asked():
    pairs = [pair(0), pair(1, "same", "same"), pair(2, "x", "y")]
    asked = [(q.fields["first"], q.fields["second"]) for q in questions(pairs)]
    assert asked == [("c", "b"), ("b", "c"), ("x", "y"), ("y", "x")]
    found = judgements(pairs, [Answer(1.0), Answer(0.0), Answer(0.0), Answer(1.0)])
    assert [j.share for j in found] == [1.0, 0.5, 0.0]
    assert tally(pairs, found).identical == 1


@pytest.mark.parametrize("status", [FAILED, UNPARSABLE])
@pytest.mark.parametrize("place", [0, 1])
def test_a_failed_judgement_is_never_a_win(status, place):
    answers = [Answer(1.0), Answer(0.0)]
    answers[place] = Answer(None, status)
    found = judgements([pair(0)], answers)
    assert found[0].share is None
    assert not found[0].biased
    count = tally([pair(0)], found)
    assert (count.judged, count.wins, count.failed + count.unparsable) == (0, 0, 1)


def test_the_error_is_clustered_by_prompt():
    shares, prompts = [1, 1, 0, 0.5, 1, 0], ["a", "a", "a", "b", "c", "c"]
    rate = win_rate(shares, prompts)
    mean = 3.5 / 6
    sums = [2 - 3 * mean, 0.5 - mean, 1 - 2 * mean]
    by_hand = math.sqrt(sum(s * s for s in sums) * 3 / 2) / 6
    assert rate.rate == pytest.approx(mean)
    assert rate.stderr == pytest.approx(by_hand)
    assert rate.high - rate.low == pytest.approx(
        min(1, mean + 4.302652 * by_hand) - max(0, mean - 4.302652 * by_hand)
    )
    alone = win_rate(shares, list("abcdef"))
    assert alone.stderr == pytest.approx(np.std(shares, ddof=1) / math.sqrt(6))


def test_length_control_is_logistic_regression_without_its_ridge():
    sklearn = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=400), (rng.random(400) < 0.6).astype(float)
    theta, phi = fit(np.tanh(x), y, np.ones((1, 400)))
    ours = sklearn.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(np.tanh(x)[:, None], y)
    assert theta[0] == pytest.approx(float(ours.intercept_[0]), abs=1e-3)
    assert phi[0] == pytest.approx(float(ours.coef_[0, 0]), abs=1e-3)


def test_a_judge_that_only_likes_length_is_controlled_to_one_half():
    rng = random.Random(0)
    lengths = [(rng.randint(100, 400), rng.randint(50, 300)) for _ in range(800)]
    sigma = np.std([a - b for a, b in lengths])
    wins = [float(rng.random() < 1 / (1 + math.exp(-1.5 * math.tanh((a - b) / sigma)))) for a, b in lengths]
    raw = sum(wins) / len(wins)
    found = length_controlled(wins, lengths, range(800))
    assert raw > 0.6
    assert abs(found.rate - 0.5) < 2.5 * found.stderr
    assert found.low < 0.5 < found.high
    assert found.slope > 1
    # The longer side's advantage gone, the other side sees the complement.
    other = length_controlled([1 - w for w in wins], [(b, a) for a, b in lengths], range(800))
    assert other.rate == pytest.approx(1 - found.rate, abs=1e-6)


def test_length_control_without_difference_in_length_is_the_win_rate():
    wins = [1, 1, 0, 0.5, 1, 1, 0, 1]
    found = length_controlled(wins, [(5, 5)] * 8, range(8))
    assert found.rate == pytest.approx(sum(wins) / 8, abs=1e-3)
    always = length_controlled([1.0] * 40, [(n, 5) for n in range(40)], range(40))
    assert 0.9 < always.low <= always.rate <= always.high <= 1


def test_the_bootstrap_covers_and_sees_clusters():
    """The interval of 120 draws with 40 clusters holds the truth about 95 times in 100."""
    held, errors = 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        gaps = rng.normal(size=(40, 3)) * 50
        truth = 1 / (1 + math.exp(-0.4))
        lean = 0.4 + 0.8 * np.tanh(gaps / gaps.std())
        wins = (rng.random((40, 3)) < 1 / (1 + np.exp(-lean))).astype(float)
        lengths = [(int(100 + g), 100) for g in gaps.ravel()]
        found = length_controlled(
            wins.ravel().tolist(), lengths, np.repeat(range(40), 3).tolist(), seed, draws=400
        )
        held += found.low <= truth <= found.high
        errors.append(found.stderr)
    assert held >= 50
    copies = length_controlled([1.0, 0.0] * 30, [(9, 5), (5, 9)] * 30, [i // 6 for i in range(60)], draws=400)
    single = length_controlled([1.0, 0.0] * 30, [(9, 5), (5, 9)] * 30, range(60), draws=400)
    assert copies.stderr < single.stderr


def test_kappa_equals_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = random.Random(0)
    one = [rng.choice("ab") for _ in range(200)]
    two = [a if rng.random() < 0.6 else rng.choice("abt") for a in one]
    assert cohen_kappa(one, two) == pytest.approx(metrics.cohen_kappa_score(one, two))
    assert cohen_kappa(one, one) == 1.0
    assert cohen_kappa("aaa", "aaa") == 0.0
