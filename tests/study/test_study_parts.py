"""The study's pure parts: equal KL, choices on validation data, verdicts; and its sampling and batches."""

from __future__ import annotations

import math

import pytest
import torch

from study import (
    choose,
    claims,
    domain,
    frontier,
    prepared,
    reward_model,
    sampling,
    select_policies,
    summarise,
    trial,
)  # fmt: skip
from study.classifiers import word_spans
from study.language import Language, Size, build_model, build_tokenizer, copy_of, pieces
from study.measure import finding
from study.rows import Table
from study.training import Plan, start

POINTS = [frontier.Point(0.0, 0.5), frontier.Point(1.0, 0.6), frontier.Point(3.0, 0.8)]


@pytest.fixture(scope="module")
def language():
    tokenizer = build_tokenizer(["a film of the story and the scene " * 20, "was long with music " * 20], 300)
    model = build_model(tokenizer, Size(300, 32, 2, 1), 0).eval().requires_grad_(False)
    return Language(model, tokenizer)


@pytest.mark.parametrize(("budget", "reward"), [(0.5, 0.55), (1.0, 0.6), (2.0, 0.7), (9.0, 0.8)])
def test_reward_within_a_budget(budget, reward):
    assert frontier.within(POINTS, budget) == pytest.approx(reward)


def test_a_run_that_returns_is_taken_where_it_first_passes():
    back = [*POINTS, frontier.Point(1.5, 0.9)]
    assert frontier.within(back, 2.0) == pytest.approx(0.7)


def test_interval_of_three_seeds_is_students():
    found = frontier.interval([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert math.isnan(frontier.interval([1.0]).low)


def test_interval_by_clusters_is_wider_than_by_items():
    values = [0.0, 0.0, 1.0, 1.0, 0.2, 0.2]
    alone, together = frontier.interval(values), frontier.interval(values, "aabbcc")
    assert together.high - together.low > alone.high - alone.low


def row(method="dpo", beta="0.2", seed="0", split="validation", step="1", kl="1", reward="0.6", **more):
    return {
        "method": method, "beta": beta, "seed": seed, "split": split, "step": step, "kl": kl,
        "reward": reward, "check": reward, "rate": "0.001", "tried": "{}", **more,
    }  # fmt: skip


REFERENCES = [
    {"seed": seed, "split": split, "kl": "0", "reward": "0.5", "check": "0.5"}
    for seed in "01"
    for split in ("validation", "test")
]


def test_settings_are_chosen_at_equal_distance():
    # The second rate ends higher, but only far beyond the budget.
    rows = [row(rate="0.001", kl="1", reward="0.6"), row(rate="0.01", kl="10", reward="0.7")]
    assert choose.chosen(rows, REFERENCES, 1.0)["dpo"].rate == 0.001
    assert choose.chosen(rows, REFERENCES, 10.0)["dpo"].rate == 0.01


def test_beta_is_chosen_on_validation_and_judged_on_test():
    rows = []
    for seed in "01":
        for beta, validation, test in (("0.2", "0.6", "0.55"), ("0.8", "0.7", "0.52")):
            rows += [row(beta=beta, seed=seed, reward=validation),
                     row(beta=beta, seed=seed, split="test", reward=test)]  # fmt: skip
    (found,) = summarise.frontier_rows(rows, REFERENCES, [1.0])
    assert (found["beta"], found["reward"], found["seeds"]) == ("0.8", pytest.approx(0.52), 2)


def test_of_an_unfinished_sweep_only_like_runs_are_compared():
    def sweep(*runs):
        return [row(method=m, beta=b, seed=s) for m, b, s in runs]

    done = [(m, b, s) for m in ("dpo", "mapo") for b in ("0.2", "0.8") for s in "01"]
    assert summarise.whole(sweep(*done)).seeds == ["0", "1"]
    # One method lacks a beta of the second seed: only the first seed is whole.
    assert summarise.whole(sweep(*done[:-1])).seeds == ["0"]
    # A third beta that the second seed lacks is left out, both seeds stay.
    found = summarise.whole(sweep(*done, ("dpo", "3.2", "0"), ("mapo", "3.2", "0")))
    assert (found.seeds, len(found.rows)) == (["0", "1"], 8)


def test_policies_beyond_the_budget_or_missing_a_seed_are_not_chosen():
    def one(beta, kl, gain, seed="0"):
        return row(beta=beta, kl=kl, seed=seed, gain=gain)

    rows = [one("0.2", "1", "0.1"), one("0.2", "1", "0.1", "1"), one("0.8", "3", "0.9"),
            one("0.8", "1", "0.9", "1"), one("3.2", "1", "0.8")]  # fmt: skip
    assert select_policies.select(rows, 2.0)["dpo"] == select_policies.Choice(0.2, 1)


@pytest.mark.parametrize(
    ("low", "high", "least", "empty", "verdict"),
    [
        (0.01, 0.2, 0.0, "", claims.HOLDS),
        (-0.2, -0.01, 0.0, "", claims.FAILS),
        (0.01, 0.02, 0.1, "", claims.FAILS),
        (-0.1, 0.2, 0.0, "", claims.OPEN),
        (None, None, 0.0, "", claims.OPEN),
        (0.01, 0.2, 0.0, "at chance", claims.OPEN),
    ],
)
def test_verdicts(low, high, least, empty, verdict):
    claim = claims.Claim("c", "m", "f", {}, "x", least, empty=empty)
    assert claims.verdict(claim, low, high) == verdict


@pytest.mark.parametrize(
    ("seeds", "verdict"), [((0.02, 0.2), claims.HOLDS), ((-0.01, 0.2), claims.OPEN), ((), claims.HOLDS)]
)
def test_a_verdict_needs_every_seed(seeds, verdict):
    claim = claims.Claim("c", "m", "f", {}, "difference", 0.0)
    assert claims.verdict(claim, 0.01, 0.1, seeds) == verdict
    ends = {"low": "0.01", "high": "0.1", **dict(zip(("least_seed", "most_seed"), map(str, seeds)))}
    row = {"difference_mean": "0.05", **{f"difference_{name}": value for name, value in ends.items()}}
    (found,) = claims.judged([claim], {"f": [row]})
    assert (found["verdict"], found["low"], found["high"]) == (verdict, 0.01, 0.1)


def test_the_trial_compares_by_prompt_and_names_the_seeds():
    def policy(wins, right):
        drawn = {"scores": [2.0, 1.0, 0.0, 0.0], "length": [3.0] * 4, "reference": wins, "people": wins}
        return {"accuracy": right, "kl": [1.0] * 4, "1": drawn}

    base = [policy([0.0, 0.0, 0.0, 0.0], [0.0, 0.0])] * 2
    mine = [policy([1.0, 0.0, 1.0, 0.0], [1.0, 0.0]), policy([1.0, 1.0, 1.0, 1.0], [1.0, 0.0])]
    # Two prompts with two responses each; two test pairs of different prompts.
    clusters = trial.Clusters([(1,), (2,)], [(1,), (2,), (1,), (2,)])
    found = trial.compare({"dpo": base, "mapo": mine}, clusters, (1.0,))
    (win,) = (r for r in found if r["method"] == "mapo" and r["quantity"] == "win over the reference")
    assert (win["mean"], win["clusters"], win["seeds"]) == (0.75, 2, 2)
    assert (win["difference_mean"], win["difference_least_seed"], win["difference_most_seed"]) == (
        0.75,
        0.5,
        1,
    )
    (duel,) = (r for r in found if r["quantity"] == "win over dpo")
    assert (duel["mean"], duel["least_seed"]) == (0.5, 0.5)


def test_the_reward_model_ranks_held_out_pairs_by_what_pleases(language):
    def pair(good, bad):
        words = [language.tokenizer(f" {text}")["input_ids"] for text in ("the film", good, bad)]
        return prepared.TokenPair(*words)

    pairs = [pair("story of music", "scene was long"), pair("music and story", "was long")] * 6
    weights = {ridge: reward_model.fit(language.tokenizer, pairs, ridge) for ridge in (0.01, 0.3)}
    small, large = (reward_model.RewardModel(found, language.tokenizer) for found in weights.values())
    held = [pair("the music", "the long scene")]
    assert small.accuracy(held) == large.accuracy(held) == 1
    assert sum(w * w for w in weights[0.01].values()) > 4 * sum(w * w for w in weights[0.3].values())


def test_wins_under_a_reward_model_at_chance_decide_nothing():
    rows = [{"domain": "helpful", "accuracy_test": "0.53", "test_pairs": "600"},
            {"domain": "summaries", "accuracy_test": "0.68", "test_pairs": "600"}]  # fmt: skip
    blind = claims.blind_domains(rows)
    assert blind == ["helpful"]
    made = [c for c in claims.claims(["1"], "2", "160", blind) if "win rate" in c.measured]
    assert {bool(c.empty) for c in made if "helpful" in c.measured} == {True}
    assert {bool(c.empty) for c in made if "summaries" in c.measured} == {False}


def test_a_verdict_reads_the_row_it_names():
    claim = claims.Claim("c", "m", "f", {"method": "b", "beta": "0.80"}, "x", 0.0)
    rows = [
        {"method": "a", "beta": "0.8", "x": "9", "x_low": "8", "x_high": "10"},
        {"method": "b", "beta": "0.8", "x": "-1", "x_low": "-2", "x_high": "-0.5"},
    ]
    (found,) = claims.judged([claim], {"f": rows})
    assert (found["value"], found["verdict"]) == ("-1", claims.FAILS)


def test_tables_add_rows_and_know_their_units(tmp_path):
    first, second = (Table(tmp_path / "t.csv", ["method", "beta"]) for _ in range(2))
    first.add([{"method": "dpo", "beta": 0.05, "step": n} for n in range(2)])
    second.add([{"method": "dpo", "beta": 0.2, "step": 0, "more": 1.0}])
    assert len(first.rows) == 3
    assert first.has(method="dpo", beta=0.2)
    assert not first.has(method="dpo", beta=0.8)
    assert all(row["commit"] and row["torch"] and row["seconds"] for row in first.rows)


def test_sampled_kl_is_that_of_a_full_pass(language):
    policy = copy_of(language)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    prompts = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
    found = sampling.sample(policy, language.model, prompts, length=6, seed=3)
    for prompt, tokens, kl in zip(prompts, found.tokens.tolist(), found.kl.tolist()):
        ids = torch.tensor([[*prompt, *tokens]])
        log_p, log_q = (
            torch.log_softmax(m(ids).logits[0, len(prompt) - 1 : -1], -1) for m in (policy, language.model)
        )
        assert kl == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum()), rel=1e-4)
        assert kl > 0.01


def test_sampling_follows_the_distribution_and_the_temperature(language):
    prompts = [[5, 6]] * 4000
    tokens = sampling.sample(language.model, None, prompts, length=1, seed=0).tokens[:, 0]
    p = torch.softmax(language.model(torch.tensor([[5, 6]])).logits[0, -1], -1)
    share = torch.bincount(tokens, minlength=len(p)) / len(prompts)
    top = p.argmax()
    assert float((share - p).abs().max()) < 5 * math.sqrt(float(p[top]) / len(prompts))
    cold = sampling.sample(language.model, None, prompts[:5], length=1, seed=0, temperature=0).tokens
    assert cold.tolist() == [[int(top)]] * 5


def test_after_the_end_token_comes_pad_and_no_kl(language):
    policy = copy_of(language)
    found = sampling.sample(policy, language.model, [[5, 6]] * 30, length=30, seed=0, stop=7, pad=0)
    ended = [row for row in found.tokens.tolist() if 7 in row]
    assert ended
    assert all(set(row[row.index(7) + 1 :]) <= {0} for row in ended)
    assert float(found.kl.abs().max()) < 1e-4


def test_batches_hold_what_the_reference_says_and_training_starts_at_ln_2(language):
    pairs = [
        prepared.TokenPair([5, 6], [7, 8, 9], [10, 11]),
        prepared.TokenPair([12], [13, 14], [15, 16, 17]),
    ]
    batch = prepared.prepare(language, pairs).batch([1, 0])
    assert batch.ids[0].tolist()[:3] == [12, 13, 14]
    direct = language.model(torch.tensor([[5, 6, 7, 8, 9]])).logits[0]
    assert torch.allclose(batch.reference_logits[1, :5], direct, atol=1e-4)
    for loss in ("dpo", "sparsepo", "mapo"):
        run = start(language, loss, {}, Plan(0.1, 1e-3, 1, 2, 0))
        assert run.forward(batch)[2].losses.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-5)


def test_finding_ranks_the_words_that_matter():
    important = torch.tensor([[0.0] * 18 + [2.0, 3.0]])
    response = torch.ones_like(important, dtype=torch.bool)
    assert finding(important, important, response) == 1.0
    assert finding(-important, important, response) == 0.0


def test_pieces_cover_the_text_and_words_have_places():
    text = " ".join(f"word{n}" for n in range(50))
    parts = pieces(text, 10)
    assert len(parts) == 5
    assert parts[1].strip().startswith("word9")
    assert word_spans("Don't stop!") == [("don't", 0, 5), ("stop", 6, 10), ("!", 10, 11)]


def test_responses_are_cut_and_end(language):
    pairs = [domain.data.Pair("the film", " was long", " and"), domain.data.Pair("a", " same", " same")]
    one = domain.Domain((), (), prompt=2, response=40, held=1, claimed=0.0)
    (found,) = domain.encode(language.tokenizer, pairs, one)
    assert found.chosen[-1] == language.tokenizer.eos_token_id
    assert language.tokenizer.decode(found.chosen[:-1]) == " was long"
    assert len(found.prompt) <= 2
