"""Two processes do what one does."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from sparsepo_plugin import checkpoint

pytestmark = pytest.mark.slow


def test_two_processes_and_one_give_the_same_loss_at_every_step(single_runs, double_runs):
    one, two = single_runs["whole"], double_runs["two"]
    assert one.code == two.code == 0, two.err[-2000:]
    assert len(one.losses()) == 6
    assert two.losses() == pytest.approx(one.losses(), abs=1e-5)
    assert one.losses()[-1] < one.losses()[0] - 0.05


def test_two_processes_and_one_end_with_the_same_policy_and_mask_module(single_runs, double_runs):
    for file in ("model.safetensors", checkpoint.WEIGHTS):
        one, two = (load_file(run.folder / file) for run in (single_runs["whole"], double_runs["two"]))
        assert set(one) == set(two)
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=0)


def test_an_evaluation_set_of_odd_size_is_counted_exactly_once(single_runs, double_runs):
    one, two = (run.lines("eval") for run in (single_runs["whole"], double_runs["two"]))
    assert [line["step"] for line in one] == [line["step"] for line in two] == [0, 3, 6]
    for left, right in zip(one, two):
        for name in set(left) - {"split"}:
            assert right[name] == pytest.approx(left[name], abs=1e-4), (left["step"], name)
    # 7 pairs: an accuracy of eighths would mean that the copy which pads the second process was counted.
    assert two[-1]["accuracy"] * 14 == pytest.approx(round(two[-1]["accuracy"] * 14), abs=1e-9)
    assert two[-1]["loss"] == pytest.approx(one[-1]["loss"], abs=1e-5)


def test_metrics_are_averaged_over_processes(single_runs, double_runs):
    for left, right in zip(
        single_runs["whole"].lines("train"), double_runs["two"].lines("train"), strict=True
    ):
        assert set(left) == set(right)
        for name in set(left) - {"split"}:
            assert right[name] == pytest.approx(left[name], rel=1e-3, abs=1e-4), (left["step"], name)


def test_all_processes_stop_together_when_one_loss_is_not_finite(double_runs):
    run = double_runs["stopped"]
    assert run.code == 1
    lines = [line for line in run.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "process " in lines[0]
    assert not (run.folder / "model.safetensors").exists()
