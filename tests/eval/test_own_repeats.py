"""Repeats in runs of ours: every sampled answer graded, pass@k, and a gate clustered by document."""

import json

import pytest

from eval_harness.cli.app import main
from eval_harness.run.folder import read_items, read_result
from eval_harness.stats.repeats import unbiased_pass

PRESET = """
version: 1
suite: reasoning
title: sampled sums
sources: [gsm8k]
groups:
  - name: gsm8k
    metrics: ["exact_match,flexible-extract"]
    shots: 2
    repeats: REPEATS
    columns: [question, answer]
    cluster: question
    tasks: {gsm8k: 0}
"""
SAMPLED = [
    "--generation",
    "do_sample=true",
    "--generation",
    "temperature=1.0",
    "--generation",
    "max_gen_toks=8",
]


@pytest.fixture
def preset(tmp_path):
    def write(repeats):
        (tmp_path / "sums.yaml").write_text(PRESET.replace("REPEATS", str(repeats)))
        return ["--suites", f"reasoning:{tmp_path / 'sums.yaml'}"]

    return write


@pytest.mark.slow
def test_every_answer_is_graded(cli, preset, model_a, model_b, tmp_path):
    assert cli("--model", model_a, "--baseline", model_b, *preset(4), *SAMPLED) == 0
    items, result = read_items(tmp_path / "out"), read_result(tmp_path / "out")
    metric = "exact_match,flexible-extract"
    assert len(items) == 8
    for item in items:
        [answers], rights = item.outputs, item.metrics[metric]
        assert len(answers) == len(rights) == 4
        assert item.metrics[f"{metric}.pass@2"] == unbiased_pass(rights, 2)
        assert item.metrics[f"{metric}.pass@4"] == max(rights)
    assert len({answer for item in items for answer in item.outputs[0]}) > 8  # they were sampled
    score = result.score("gsm8k", metric)
    assert (score.main, score.n) == (True, 8)
    assert score.value == pytest.approx(sum(sum(item.metrics[metric]) for item in items) / 32)
    assert not result.score("gsm8k", f"{metric}.pass@4").main
    gates = {"mean": metric, "best": f"{metric}.pass@4"}
    (tmp_path / "gates.yaml").write_text(
        json.dumps({"version": 1, "gates": {k: {"tasks": ["gsm8k"], "metric": m} for k, m in gates.items()}})
    )
    out = tmp_path / "out"
    assert main(["gate", str(out), "--gates", str(tmp_path / "gates.yaml")]) in (0, 1, 3)
    made = json.loads((out / "report" / "report.json").read_text())["gates"]
    assert [(g["items"], g["paired"]["n"], g["paired"]["clusters"]) for g in made] == [(8, 32, 8), (8, 8, 8)]
    # the same command once more: every answer from the store
    before = [item.outputs for item in items]
    assert cli("--model", model_a, *preset(4), *SAMPLED, out=tmp_path / "again") == 0
    assert [item.outputs for item in read_items(tmp_path / "again")] == before


@pytest.mark.parametrize(
    ("repeats", "words", "message"),
    [(4, [], "greedy answers"), (0, SAMPLED, "a positive integer"), ("x", SAMPLED, "repeats")],
)
def test_repeats_that_make_no_sense(cli, preset, model_a, repeats, words, message, capsys, tmp_path):
    assert cli("--model", model_a, *preset(repeats), *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("eval-harness:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()
