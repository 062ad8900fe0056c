"""The demo's win rate: who learned the planted words beats the start, judged by the planted reward."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A supervised start, and the same model trained further on chosen responses only."""
    from sparsepo_plugin.demo import duel, language, supervised, tiny

    folder = tmp_path_factory.mktemp("duel")
    pairs = language.generate_pairs(300, seed=1)
    tokenizer = tiny.build_tokenizer(language.vocabulary())
    model = tiny.build_model(tokenizer, seed=0)
    settings = {"batch_size": 32, "learning_rate": 1e-2, "seed": 0, "max_length": 64, "progress": False}
    both = [pair.prompt + side for pair in pairs for side in (pair.chosen, pair.rejected)]
    supervised.supervised_start(model, tokenizer, both, steps=100, **settings)
    tiny.save_tiny(folder / "start", model, tokenizer)
    chosen = [pair.prompt + pair.chosen for pair in pairs]
    supervised.supervised_start(model, tokenizer, chosen, steps=50, **settings)
    tiny.save_tiny(folder / "better", model, tokenizer)
    duel.write_duel(folder / "win_rate", pairs)
    return folder


def run(models, candidate, baseline, out):
    from eval_harness.cli.app import main

    task = models / "win_rate"
    args = ["run", "--model", models / candidate, "--baseline", models / baseline, "--out", models / out]
    args += ["--suites", f"win_rate:{task}/scenes.yaml", "--prompts", task / "prompts.jsonl", "--no-cache"]
    args += ["--judge", "words", "--judge-set", f"file={task}/judge.yaml", "--device", "cpu"]
    assert main([*map(str, args), "--dtype", "float32", "--batch-size", "64"]) == 0
    return main(["gate", str(models / out), "--gates", str(task / "gates.yaml")])


def test_the_planted_reward_sees_who_learned_it(models):
    from sparsepo_plugin.demo.language import BAD, GOOD

    assert run(models, "better", "start", "won") == 0
    assert run(models, "start", "better", "lost") == 1
    assert run(models, "start", "start", "same") == 3
    decided = json.loads((models / "won" / "report" / "report.json").read_text())
    gate = decided["gates"][0]
    assert gate["paired"]["clusters"] == 48
    assert gate["paired"]["n"] == 48 * 6
    assert gate["paired"]["candidate"] > 0.5
    assert "95 % interval" in dict(decided["facts"])["win rate, scenes_t1"]
    # The judge's verdicts are the planted words', counted here by hand.
    items = [
        [json.loads(line) for line in (models / "won" / place / "items.jsonl").read_text().splitlines()]
        for place in ("", "baseline")
    ]

    def reward(text):
        return sum((word in GOOD) - (word in BAD) for word in text.split())

    for ours, theirs in zip(*items, strict=True):
        gap = reward(ours["outputs"][0]) - reward(theirs["outputs"][0])
        assert ours["metrics"]["win_rate,both_orders"] == (gap > 0) + 0.5 * (gap == 0)
