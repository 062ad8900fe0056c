"""A judge whose answers have nothing to do with the texts decides nothing; contradictions are no ties."""

import random
import zlib

import numpy as np
import pytest

from eval_harness.stats.judge_information import chance_of_no_information
from eval_harness.win_rate.comparisons import Comparison, judgements, settled, why_no_information

from .judge_server import Judge
from .test_win_rate import files, gate, http, report, run  # noqa: F401 - fixtures

ALWAYS = {"the first place": "A", "the second place": "B", "a tie": "C"}


def made(orders):
    """Judgements of answers in both orders."""
    from eval_harness.judges.types import Answer

    pairs = [Comparison("t", number, f"p{number}", "x", "y") for number in range(len(orders))]
    return judgements(pairs, [Answer(value) for both in orders for value in both])


@pytest.mark.parametrize("label", ALWAYS.values(), ids=list(ALWAYS))
def test_a_judge_that_always_says_the_same_leaves_the_gate_undecided(label, run, files, tmp_path):  # noqa: F811
    with Judge(None, text=label) as server:
        assert run(*files, *http(server)) == 0
    assert gate(tmp_path, "win_rate-kept") == 3
    assert any("the judge gave the first text" in note for note in report(tmp_path)["gates"][0]["notes"])


def test_a_judge_that_throws_a_coin_leaves_the_gate_undecided(run, files, tmp_path):  # noqa: F811
    coin = lambda first, second: "AB"[zlib.crc32(f"{first}|{second}".encode()) % 2]  # noqa: E731
    with Judge(coin) as server:
        assert run(*files, *http(server)) == 0
    assert gate(tmp_path, "win_rate-kept") == 3
    assert any("do not measurably depend" in note for note in report(tmp_path)["gates"][0]["notes"])


def test_contradictions_are_ties_up_to_the_stated_share_and_no_judgement_above_it():
    contradictory, won = (1.0, 1.0), (1.0, 0.0)
    few = made([contradictory] * 10 + [won] * 30)
    assert [j.share for j in settled(few, 0.5)] == [0.5] * 10 + [1.0] * 30
    many = made([contradictory] * 30 + [won] * 10)
    assert [j.share for j in settled(many, 0.5)] == [None] * 30 + [1.0] * 10


def test_the_error_rate_of_the_test_is_its_level_at_every_place_bias():
    random_state = np.random.default_rng(0)
    for bias in (0.5, 0.8):
        chances = [
            chance_of_no_information(*(random_state.random((2, 40)) < bias).astype(float), seed=n)
            for n in range(200)
        ]
        assert np.mean(np.array(chances) <= 0.05) < 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_a_biased_judge_that_still_knows_something_is_taken():
    draw = random.Random(0)
    orders = [(1.0, 1.0) if draw.random() < 0.5 else (1.0, 0.0) for _ in range(60)]
    assert why_no_information(made(orders), order_free=False) == ""


def test_a_judge_blind_to_order_needs_only_to_tell_texts_apart():
    assert why_no_information(made([(0.5, 0.5)] * 20), order_free=True)
    assert why_no_information(made([(1.0, 0.0)] + [(0.5, 0.5)] * 3), order_free=True) == ""
