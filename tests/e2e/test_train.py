"""OpenRLHF's own trainer with our losses, from the command line to the files it leaves."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from training import SEED, environment
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsepo_plugin import checkpoint
from sparsepo_plugin.types import ReferenceState

pytestmark = pytest.mark.slow

PAIR_METRICS = {
    "loss", "margin", "accuracy", "chosen_rewards", "rejected_rewards", "chosen_logps", "rejected_logps",
    "margin_unmasked", "accuracy_unmasked", "chosen_sequence_kl", "rejected_sequence_kl",
    "chosen_masked_sequence_kl", "rejected_masked_sequence_kl",
}  # fmt: skip
MASK_METRICS = {
    f"{mask}_{what}" for mask in ("reward_mask", "kl_mask") for what in ("sparsity", "mean", "l1")
}


def scalars(folder: Path) -> dict[str, list[float]]:
    """Read the scalars that TensorBoard was given."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # The run repeated from its own configuration logs to the same folder: the first file is the first run's.
    events = min(folder.rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns)
    reader = EventAccumulator(str(events)).Reload()
    return {tag: [event.value for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_the_main_job_succeeds_and_leaves_its_files(main_run):
    assert main_run.code == 0, main_run.err[-3000:]
    assert "Traceback" not in main_run.err
    names = {path.name for path in main_run.folder.iterdir()}
    plain = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    ours = {
        "metrics.jsonl",
        "sparsepo_config.yaml",
        "sparsepo_run.json",
        checkpoint.WEIGHTS,
        checkpoint.RECORD,
    }
    assert names == plain | ours


def test_the_policy_is_a_plain_hugging_face_folder(main_run, inputs):
    model, report = AutoModelForCausalLM.from_pretrained(main_run.folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    keys = set(load_file(main_run.folder / "model.safetensors"))
    assert keys == set(load_file(inputs.model() / "model.safetensors"))
    start = AutoModelForCausalLM.from_pretrained(inputs.model())
    moved = max((a - b).abs().max() for a, b in zip(model.float().parameters(), start.float().parameters()))
    assert moved > 1e-3
    tokenizer = AutoTokenizer.from_pretrained(main_run.folder)
    assert (
        tokenizer("scene :")["input_ids"]
        == AutoTokenizer.from_pretrained(inputs.model())("scene :")["input_ids"]
    )
    assert "sparsepo" not in (main_run.folder / "config.json").read_text()


def test_the_mask_module_loads_and_has_moved_from_its_seeds_initialisation(main_run):
    saved = checkpoint.load_masks(main_run.folder)
    assert saved.loss.name == "sparsepo"
    assert (saved.options.masks, saved.options.reward_l1, saved.options.mask_lr) == (
        "independent",
        0.002,
        0.05,
    )
    record = json.loads((main_run.folder / checkpoint.RECORD).read_text())
    assert record["reference_shape"]["hidden_size"] == 32
    fresh = saved.options.build_masks(checkpoint.ReferenceShape(**record["reference_shape"]), seed=SEED)
    for name, value in saved.module.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert not torch.equal(value, fresh.state_dict()[name].to(value.dtype)), name
    hidden = tuple(torch.randn(2, 5, 32) for _ in range(2))
    masks = saved.module(ReferenceState(hidden, torch.ones(2, 4, dtype=torch.bool)))
    assert masks.reward_mask.shape == (2, 4)
    assert (masks.reward_mask >= 0).all()


def test_every_step_has_a_line_with_every_metric(main_run):
    lines = main_run.lines("train")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert PAIR_METRICS | MASK_METRICS | {"learning_rate", "grad_norm"} <= set(line)
        assert all(math.isfinite(value) for name, value in line.items() if name != "split")
        assert 0 <= line["reward_mask_sparsity"] < 1
        assert 0 <= line["kl_mask_sparsity"] < 1
        assert line["margin"] == pytest.approx(line["chosen_rewards"] - line["rejected_rewards"], abs=1e-5)


def test_every_metric_is_documented(main_run):
    documented = (Path(__file__).parents[2] / "docs/files.md").read_text(encoding="utf-8")
    for line in (*main_run.lines("train"), *main_run.lines("eval")):
        assert all(f"`{name}`" in documented for name in line), sorted(line)


def test_evaluation_logs_the_same_metrics_before_and_during_training(main_run):
    lines = main_run.lines("eval")
    assert [line["step"] for line in lines] == [0, 3, 6]
    for line in lines:
        assert set(line) >= PAIR_METRICS | MASK_METRICS
    assert lines[0]["margin"] == 0
    assert lines[0]["accuracy"] == 0.5
    assert lines[-1]["margin"] != 0


def test_the_first_loss_is_ln_2_and_the_penalties(main_run):
    line = main_run.lines("train")[0]
    penalty = 2 * (0.002 * line["reward_mask_l1"] + 0.001 * line["kl_mask_l1"])
    assert line["reward_mask_l1"] > 0
    assert line["loss"] == pytest.approx(math.log(2) + penalty, abs=1e-4)
    assert line["chosen_sequence_kl"] == 0
    assert line["accuracy"] == 0.5


def test_training_lowers_the_loss_and_raises_the_margin(main_run):
    lines = main_run.lines("train")
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.05
    assert lines[-1]["margin"] > 0.1
    assert lines[-1]["chosen_sequence_kl"] > 0


def test_tensorboard_has_the_same_numbers_as_the_metrics_file(main_run):
    board = scalars(main_run.folder.parent / "tensorboard")
    for split in ("train", "eval"):
        lines = main_run.lines(split)
        for name in PAIR_METRICS | MASK_METRICS:
            assert board[f"{split}/{name}"] == pytest.approx(
                [line[name] for line in lines], rel=1e-5, abs=1e-7
            )


def test_the_effective_configuration_runs_again_with_the_same_numbers(main_run, single_runs):
    again = single_runs["again"]
    assert again.code == 0, again.err[-2000:]
    assert again.losses() == main_run.losses()
    content = yaml.safe_load((again.folder / "sparsepo_config.yaml").read_text())
    assert content["ckpt"]["output_dir"] == str(again.folder)
    assert content["sparsepo"]["masks"] == "independent"
    run = json.loads((again.folder / "sparsepo_run.json").read_text())
    assert run["versions"]["openrlhf"] == "0.11.2"
    assert run["processes"] == 1
    assert run["loss"] == "sparsepo"


def test_no_c_extension_is_built_on_a_machine_without_cuda(main_run, single_runs):
    if torch.cuda.is_available():
        pytest.skip("upstream builds its own extensions on CUDA")
    assert list(Path(os.environ["TORCH_EXTENSIONS_DIR"]).iterdir()) == []


def test_without_a_loss_upstreams_own_trains_and_dpo_equals_it(single_runs):
    upstream, ours = single_runs["upstream"], single_runs["dpo"]
    assert upstream.code == ours.code == 0, upstream.err[-2000:] + ours.err[-2000:]
    board = scalars(upstream.folder.parent / "board")
    assert len(ours.losses()) == 3
    assert ours.losses() == pytest.approx(board["train/loss_mean"], abs=1e-5)
    assert abs(ours.losses()[-1] - math.log(2)) > 0.01
    one, other = (load_file(run.folder / "model.safetensors") for run in (upstream, ours))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)
    assert not (upstream.folder / "metrics.jsonl").exists()
    assert not (ours.folder / checkpoint.RECORD).exists()
    assert all(line.get("reward_mask_mean", 1.0) == 1.0 for line in ours.lines("train"))


def test_a_resumed_run_continues_with_the_numbers_of_the_uninterrupted_one(single_runs, resumed_run):
    whole = single_runs["resumed"]
    assert whole.code == resumed_run.code == 0, resumed_run.err[-2000:]
    assert "consumed_samples: 32" in resumed_run.out
    steps = [line["step"] for line in resumed_run.lines("train")]
    assert steps == [1, 2, 3, 4, 5, 6]  # no step twice, none missing
    assert resumed_run.losses()[-2:] == pytest.approx(whole.losses()[-2:], abs=1e-6)
    assert abs(whole.losses()[-1] - whole.losses()[0]) > 0.01
    for file in ("model.safetensors", checkpoint.WEIGHTS):
        one, other = (load_file(run.folder / file) for run in (whole, resumed_run))
        assert set(one) == set(other)
        for name in one:
            torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=0)


def test_micro_batches_change_neither_losses_nor_metrics(single_runs):
    whole, parts = single_runs["whole"], single_runs["accumulated"]
    for split in ("train", "eval"):
        for one, many in zip(whole.lines(split), parts.lines(split), strict=True):
            for name in PAIR_METRICS | MASK_METRICS:
                assert many[name] == pytest.approx(one[name], abs=1e-4), (split, one["step"], name)
    assert parts.losses() == pytest.approx(whole.losses(), abs=1e-5)


def test_the_reference_may_be_of_another_family_with_the_same_vocabulary(single_runs):
    run = single_runs["reference"]
    assert run.code == 0, run.err[-2000:]
    assert run.lines("train")[0]["chosen_sequence_kl"] > 0
    assert run.lines("train")[0]["margin"] != 0


def test_checkpoints_of_steps_in_plain_form_have_their_mask_module_beside_them(single_runs):
    run = single_runs["hf_steps"]
    assert run.code == 0, run.err[-2000:]
    folder = run.folder / "steps/global_step2_hf"
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["unexpected_keys"]
    early, late = (load_file(place / checkpoint.WEIGHTS) for place in (folder, run.folder))
    assert set(early) == set(late)
    assert any(not torch.equal(early[name], late[name]) for name in early)


@pytest.mark.parametrize("name", ["stopped", "poisoned"])
def test_a_loss_that_is_not_finite_stops_the_run_in_one_line(name, single_runs):
    run = single_runs[name]
    assert run.code == 1
    assert "Traceback" not in run.err
    lines = [line for line in run.err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: loss is not finite in training at step ")
    assert run.err.rstrip().endswith(lines[0])
    assert "process 0: rows [" in lines[0]
    indices = json.loads(lines[0].split("rows ")[1].split(")")[0])
    assert len(set(indices)) == 4
    assert set(indices) <= set(range(24))
    assert not (run.folder / "model.safetensors").exists()
    assert all(math.isfinite(loss) for loss in run.losses())


def test_the_last_checkpoint_survives_a_loss_that_is_not_finite(single_runs):
    run = single_runs["stopped"]
    steps = len(run.losses())
    assert steps >= 1
    assert (run.folder / "steps/latest").read_text() == f"global_step{steps}"
    assert list((run.folder / f"steps/global_step{steps}").glob("*model_states.pt"))
    assert "at step 1 " in single_runs["poisoned"].err


def test_the_console_script_refuses_bad_input_in_one_line(inputs, tmp_path):
    argv = ["train", *inputs.flags(), "--loss", "dpo", "--train.batch_size", "32", "--ckpt.output_dir", "out"]
    script = Path(sys.executable).with_name("sparsepo")
    done = subprocess.run([script, *argv], env=environment(), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"error: --data.dataset {inputs.train}: got 24 usable pairs, expected at least one batch of 32"
    )
    assert not (tmp_path / "out").exists()
