"""How a run ends: evaluations first and last, one bar, five lines, and no word that is nobody's business."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from training import FP32, SPARSE, environment, run_many

pytestmark = pytest.mark.slow
LORA = ["--ds.lora.rank", "4", "--ds.lora.target_modules", "q_proj", "v_proj", "--ds.lora.dropout", "0.5"]
FOREIGN = ["pynvml", "git repository", "Setting accelerator", "deprecated", "pin_memory", "[MoE]", "MA 0"]
FOREIGN += ["Loading weights", "Writing model shards", "(q_proj)", "features:", "Train epoch", "acc_mean"]


@pytest.fixture(scope="module")
def ends(inputs, tmp_path_factory):
    """Runs of 3 steps, evaluated every 2 steps."""
    folder = tmp_path_factory.mktemp("ends")
    common = [*inputs.flags(), *FP32, "--eval.dataset", str(inputs.held_out), "--eval.steps", "2"]
    off = ["--no-eval.at_start", "--no-eval.at_end"]
    saved = ["--ckpt.save_steps", "1", "--ckpt.path", str(folder / "resumed/steps")]
    return run_many(folder, {
        "default": [*common, "--loss", "dpo", *LORA],
        "off": [*common, "--loss", "dpo", *LORA, *off, "--eval.steps", "3"],
        "divides": [*common, "--loss", "dpo", "--eval.steps", "3"],
        "upstream": common,
        "resumed": [*common, *SPARSE, *saved],
    })  # fmt: skip


def evaluated(run):
    assert run.code == 0, run.err[-2000:]
    return [line["step"] for line in run.lines("eval")]


def test_evaluations_first_and_last_each_once(ends):
    assert evaluated(ends["default"]) == [0, 2, 3]
    assert evaluated(ends["divides"]) == [0, 3]
    assert evaluated(ends["off"]) == [3]  # the last one is of --eval.steps 3


def test_an_evaluation_moves_no_number_of_the_training(ends):
    """With dropout, which is drawn from the random sequence that the loader of evaluations would read too."""
    assert ends["default"].losses() == ends["off"].losses()
    assert ends["default"].losses()[-1] != ends["default"].losses()[0]


def test_upstreams_own_loss_is_evaluated_too(ends):
    said = re.findall(r"evaluation after step (\d): loss [\d.]+, accuracy [\d.]+", ends["upstream"].out)
    assert said == ["0", "2", "3"]
    assert "no --loss: evaluations are above" in ends["upstream"].out


def test_a_resumed_run_keeps_its_evaluations_and_its_end(ends, inputs, tmp_path_factory):
    whole = ends["resumed"]
    lines = whole.lines("eval")
    argv = [*inputs.flags(), *FP32, *SPARSE, "--eval.dataset", str(inputs.held_out), "--eval.steps", "2"]
    argv += ["--ckpt.path", str(whole.folder / "steps"), "--ckpt.save_steps", "1", "--ckpt.load_enable"]
    for last in (1, 3):  # in the middle; and at the end, where nothing is left to do
        (whole.folder / "steps/latest").write_text(f"global_step{last}")
        folder = tmp_path_factory.mktemp("again") / "x"
        folder.mkdir()
        command = [
            sys.executable,
            "-m",
            "sparsepo_plugin.train_dpo",
            *argv,
            "--ckpt.output_dir",
            str(whole.folder),
        ]
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=200, cwd=folder
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert whole.lines("eval") == lines
        assert done.stdout.splitlines()[-5].startswith(
            "evaluation of 7 pairs, step 0 -> 3 (95 % intervals): "
        )


def test_five_lines_close_a_run(ends):
    *_, numbers, places, see, time, following = ends["resumed"].out.splitlines()
    folder = ends["resumed"].folder
    assert re.match(
        r"evaluation of 7 pairs, step 0 -> 3 \(95 % intervals\): accuracy 0.5 -> .* \[.*; loss ", numbers
    )
    assert places.startswith(f"policy: {folder}; masks: {folder}/sparsepo_masks.safetensors; metrics: ")
    assert see.startswith(
        f"page: sparsepo report {folder} -o {folder}.html (without tokens: --sparsepo.record 200"
    )
    assert re.fullmatch(r"time: (\d+ min )?\d+ s to step 3", time)
    assert following.startswith(f"next: eval-harness run --model {folder} --baseline ")


@pytest.mark.parametrize("name", ["default", "upstream", "resumed"])
def test_one_bar_and_no_foreign_word(ends, name):
    said = ends[name].out + ends[name].err
    assert not [word for word in FOREIGN if word in said]
    bars = {line.split(":")[0].strip() for line in re.split(r"[\r\n]", ends[name].err) if line.strip()}
    assert all(re.fullmatch(r"train|evaluate \d/\d", bar) for bar in bars), bars
    assert "accuracy=" in ends[name].err


@pytest.mark.parametrize("processes", [1, 2])
def test_no_foreign_word_from_a_fresh_command(inputs, tmp_path, processes):
    """In bfloat16, for which DeepSpeed reports its memory, and in processes that import everything anew."""
    argv = [*inputs.flags(), "--loss", "dpo", "--eval.dataset", str(inputs.held_out)]
    command = [sys.executable, "-m", "sparsepo_plugin", "train", "--processes", str(processes), *argv]
    command += ["--ckpt.output_dir", str(tmp_path / "out")]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [word for word in FOREIGN if word in done.stdout + done.stderr]
    assert done.stdout.count("evaluation after step 3: ") == 1
    assert "next: eval-harness run " in done.stdout.splitlines()[-1]
