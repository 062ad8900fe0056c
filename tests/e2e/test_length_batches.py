"""A run with length-aware batches ends where the plain one does, resumed and on two processes as well."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file
from training import FP32, PENALTIES, SPARSE, run_many

from sparsepo_plugin import checkpoint

pytestmark = pytest.mark.slow
BATCHED = ["--data.length_batching", "--train.micro_batch_size", "2"]
# As in the tests of modes: an entry of the gradient that is rounding noise must not move at full speed.
STEPS = ["--train.max_epochs", "2", "--lr_warmup_ratio", "0", "--adam.eps", "1e-5"]


@pytest.fixture(scope="module")
def common(inputs):
    return [*inputs.flags(), *FP32, *SPARSE, *PENALTIES, *STEPS, "--ds.zero_stage", "2"]


@pytest.fixture(scope="module")
def alone(common, tmp_path_factory):
    folder = tmp_path_factory.mktemp("batched")
    saved = ["--ckpt.save_steps", "1", "--ckpt.max_num", "9", "--ckpt.path", str(folder / "steps")]
    plain = [*common, "--train.micro_batch_size", "2"]
    return run_many(folder, {"plain": plain, "batched": [*common, *BATCHED, *saved]})


@pytest.fixture(scope="module")
def taken_up(common, alone, tmp_path_factory):
    """Both runs with two processes: from the start, and from the fourth of six steps of one process."""
    folder = tmp_path_factory.mktemp("batched-two")
    shutil.copytree(alone["batched"].folder.parent / "steps", folder / "steps")
    for step in (5, 6):
        shutil.rmtree(folder / f"steps/global_step{step}")
    (folder / "steps/latest").write_text("global_step4")
    again = ["--ckpt.load_enable", "--ckpt.path", str(folder / "steps")]
    runs = {"two": [*common, *BATCHED], "resumed": [*common, *BATCHED, *again]}
    return run_many(folder, runs, processes=2)


def test_losses_of_every_step_are_those_of_the_plain_run(alone):
    assert [run.code for run in alone.values()] == [0, 0]
    plain, batched = (run.losses() for run in alone.values())
    assert len(plain) == 6
    assert batched == pytest.approx(plain, abs=1e-5)
    assert len(set(plain)) == 6
    # But for the order of a sum, no number is the same by accident alone: the order did change.
    assert batched != plain


@pytest.mark.parametrize("name", ["batched", "two", "resumed"])
def test_weights_and_masks_end_where_the_plain_run_ends(name, alone, taken_up):
    run = {**alone, **taken_up}[name]
    assert run.code == 0, run.err[-2000:]
    for file in ("model.safetensors", checkpoint.WEIGHTS):
        expected, got = load_file(alone["plain"].folder / file), load_file(run.folder / file)
        assert expected.keys() == got.keys()
        for key, value in expected.items():
            torch.testing.assert_close(got[key], value, atol=1e-5, rtol=0, msg=f"{file} {key}")


def test_a_resumed_run_repeats_no_step(taken_up, alone):
    resumed = taken_up["resumed"].lines("train")
    assert [row["step"] for row in resumed] == [5, 6]
    expected = alone["plain"].lines("train")[4:]
    assert [row["loss"] for row in resumed] == pytest.approx([row["loss"] for row in expected], abs=1e-5)
