"""What a training says at its end: numbers with intervals, places, time, the next command."""

from __future__ import annotations

import json
import math
import re
import shlex

import made_runs
import pytest

from sparsepo_plugin import cli, metrics
from sparsepo_plugin.metrics import MetricSum, wilson_interval
from sparsepo_plugin.run_folder import closing

START = {"step": 0, "split": "eval", "loss": 0.6931, "margin": 0.0, "accuracy": 0.5, "pairs": 12}
START |= {"loss_stderr": 0.0, "margin_stderr": 0.0, "chosen_sequence_kl": 0.0, "chosen_sequence_kl_stderr": 0}
END = {"step": 3, "split": "eval", "loss": 0.4, "margin": 0.8, "accuracy": 0.75, "pairs": 12}
END |= {
    "loss_stderr": 0.01,
    "margin_stderr": 0.1,
    "chosen_sequence_kl": 0.2,
    "chosen_sequence_kl_stderr": 0.05,
}


def test_wilsons_interval():
    """Newcombe 1998, table I: 81 of 263 gives .2553 to .3662, 0 of 20 gives 0 to .1611."""
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1.0, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)


def test_the_first_and_the_last_evaluation_stand_side_by_side():
    said = closing.reached({"train": [], "eval": [START, {**END, "step": 2, "accuracy": 0.6}, END]})
    low, high = wilson_interval(0.75, 12)
    assert said.startswith("evaluation of 12 pairs, step 0 -> 3 (95 % intervals): ")
    # Before the first step policy and reference are equal: every pair is a tie, nothing is estimated.
    assert f"accuracy 0.5 -> 0.75 [{low:.3g}, {high:.3g}]; " in said
    assert "KL of chosen 0 -> 0.2 [0.102, 0.298]" in said  # .2 -+ 1.96 x .05


def test_one_evaluation_or_none():
    assert "step 3 (95 % intervals): accuracy 0.75 [" in closing.reached({"eval": [END]})
    assert closing.reached({"eval": []}).startswith("not evaluated: ")


def test_an_evaluation_of_an_earlier_version_has_no_interval():
    old = {name: value for name, value in END.items() if name != "pairs" and "stderr" not in name}
    assert closing.reached({"eval": [old]}) == (
        "evaluation, step 3 (95 % intervals): accuracy 0.75; loss 0.4; margin 0.8; KL of chosen 0.2"
    )


def test_five_lines_name_what_is_there_and_what_is_not(tmp_path):
    folder = tmp_path / "a run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(json.dumps(START) + "\n" + json.dumps({**END, "split": "train"}))
    said = closing.lines(folder, "a model", "dpo", 3725)
    assert len(said) == 5
    assert said[1] == f"policy: {folder}; metrics: {folder / 'metrics.jsonl'}"
    assert said[2].startswith(
        f"page: sparsepo report '{folder}' -o '{folder}'.html (without tokens: --dpo.record"
    )
    assert said[3] == "time: 1 h 2 min to step 3"
    assert f"--model '{folder}' --baseline 'a model'" in said[4]
    (folder / "tokens.jsonl").touch()
    (folder / "sparsepo_masks.safetensors").touch()
    said = closing.lines(folder, "a model", "sparsepo", 59.6)
    assert "; masks: " in said[1]
    assert "; tokens: " in said[1]
    assert said[2].startswith(f"page: sparsepo report '{folder}' -o '{folder}'.html; plots: sparsepo plot ")
    assert said[3] == "time: 1 min 0 s to step 3"


def test_the_commands_for_page_and_plots_run_as_they_are_printed(tmp_path):
    """They are not run by the training: a page gains from later evaluations, and compares runs."""
    folder = made_runs.write(tmp_path / "my runs" / "it's one", steps=5)
    see = closing.lines(folder, "start", "sparsepo", 1)[2]
    page, plots = re.fullmatch(r"page: (.*) \(without tokens: .*\); plots: (.*)", see).groups()
    for command in (page, plots):
        program, *argv = shlex.split(command)
        assert program == "sparsepo"
        assert cli.main(argv) == 0
    assert folder.with_name("it's one.html").is_file()
    assert (folder.with_name("it's one-plots") / "loss.png").is_file()


def test_numbers_that_cannot_be_read_end_no_training(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "split": "tr')
    said = closing.lines(tmp_path, "start", "dpo", 1)
    assert said[0].startswith(f"no numbers: {tmp_path}/metrics.jsonl line 1: got no JSON")
    assert len(said) == 5


def test_every_trainer_has_its_own_words(tmp_path):
    said = closing.lines(tmp_path, "start", "dpo", 1, names=closing.TRL, unsaved="once it is saved")
    assert "(eval_dataset and eval_strategy)" in said[0]
    assert said[1] == f"policy: {tmp_path}, once it is saved"
    assert '(without tokens: loss_options={"record": 200} and eval_dataset keep some)' in said[2]
    said = closing.lines(tmp_path, "start", "dpo", 1, names=closing.AXOLOTL)
    assert "(without tokens: dpo: {record: 200} and test_datasets keep some)" in said[2]


def test_standard_errors_are_those_of_the_mean_over_pairs():
    margins = [0.5, -0.25, 1.0, 0.125, 0.0]
    parts = [
        {
            "margin": MetricSum(sum(some), len(some)),
            "squared margin": MetricSum(sum(m * m for m in some), len(some)),
        }
        for some in (margins[:2], margins[2:])
    ]
    found = metrics.ratios(metrics.add(*parts))
    mean = sum(margins) / 5
    expected = math.sqrt(sum((m - mean) ** 2 for m in margins) / 4 / 5)
    assert found == {"margin": pytest.approx(mean), "pairs": 5, "margin_stderr": pytest.approx(expected)}


def test_one_pair_has_no_error():
    assert metrics.ratios({"margin": MetricSum(0.5, 1), "squared margin": MetricSum(0.25, 1)}) == {
        "margin": 0.5,
        "pairs": 1,
    }
