"""How a batch is split, sharded, packed or recomputed changes no number.

Float32: loss and every other metric, the mask module's gradient, the final policy and the final mask module
agree with the plainest run of the same loss (one process, ZeRO 0, padded, no checkpointing) to 1e-5, at each
of six steps. bfloat16: to the precision of bfloat16 itself, see ``half_tolerances``.
"""

from __future__ import annotations

import math

import mode_runs
import pytest
import torch
from cover import uncovered
from mode_runs import BASES, CELLS, FACTORS, HALF, HALF_BASE, HALF_MAPO, name
from safetensors.torch import load_file

from sparsepo_plugin import checkpoint

pytestmark = pytest.mark.slow

ATOL = 1e-5
POLICY = "model.safetensors"
# bfloat16 keeps 8 bits: relative rounding error of a number.
ROUNDING = 2.0**-8


def run_of(cell, runs, kind="cell"):
    one, two = runs
    run = (two if cell[0] == "two" else one)[name(cell, kind)]
    assert run.code == 0, run.err[-3000:]
    return run


def largest(left, right):
    """Largest difference of two sets of tensors by name."""
    assert set(left) == set(right)
    return max(float((left[key].float() - right[key].float()).abs().max()) for key in left)


def gradients(run):
    return torch.load(run.folder / "gradients.pt")


@pytest.fixture(scope="session")
def runs(one_process, two_processes):
    return one_process, two_processes


def test_every_two_values_of_two_factors_meet_in_at_most_twelve_cells():
    assert len(CELLS) == len(set(CELLS)) <= 12
    assert set(BASES.values()) <= set(CELLS)
    assert not uncovered(CELLS, FACTORS)
    without_three = [cell for cell in CELLS if cell[1] != "3"]
    assert (("zero", "3"), ("loss", "mapo")) in uncovered(without_three, FACTORS)
    assert len(uncovered([], FACTORS)) == 123  # 3 3-valued and 4 2-valued factors: 27 + 72 + 24 pairs


def test_the_bases_learn_so_that_agreement_means_something(runs):
    for cell in BASES.values():
        lines = run_of(cell, runs).lines("train")
        assert len(lines) == 6
        assert lines[1]["margin"] != 0
        assert lines[-1]["loss"] < lines[0]["loss"] - 0.3


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell not in BASES.values()], ids=name)
def test_a_cell_agrees_with_the_plainest_run_of_its_loss(cell, runs):
    run, base = run_of(cell, runs), run_of(BASES[cell[-1]], runs)
    assert len(run.lines("train")) == 6
    for line, expected in zip(run.lines("train"), base.lines("train"), strict=True):
        assert set(line) == set(expected)
        assert abs(line["loss"] - expected["loss"]) <= ATOL, line["step"]
        for metric in set(line) - {"split"}:
            assert line[metric] == pytest.approx(expected[metric], rel=ATOL, abs=ATOL), (line["step"], metric)
    assert largest(load_file(run.folder / POLICY), load_file(base.folder / POLICY)) <= ATOL
    masks = [folder / checkpoint.WEIGHTS for folder in (run.folder, base.folder)]
    assert [path.is_file() for path in masks] == [cell[-1] == "sparsepo"] * 2
    if cell[-1] == "sparsepo":
        assert largest(*(load_file(path) for path in masks)) <= ATOL


@pytest.mark.parametrize("cell", [c for c in CELLS if c[-1] == "sparsepo" and c != CELLS[1]], ids=name)
def test_the_masks_gradient_is_the_same_at_every_step(cell, runs):
    found, expected = (gradients(run_of(one, runs)) for one in (cell, BASES["sparsepo"]))
    assert len(found) == len(expected) == 6
    for left, right in zip(found, expected):
        assert set(left) == set(right) == set(load_file(run_of(cell, runs).folder / checkpoint.WEIGHTS))
        assert all(value.abs().max() > 1e-4 for value in right.values())
        assert largest(left, right) <= ATOL


def test_a_cell_of_the_gradient_test_has_zero_3():
    assert any(cell[-1] == "sparsepo" and cell[1] == "3" for cell in CELLS)


@pytest.fixture(scope="session")
def half_tolerances(runs):
    """What two correct runs in bfloat16 may differ by: loss, policy, mask module.

    Two runs that round in another order are two drawings of the same rounding error, so that they differ by
    about sqrt(2) times the error of one. That error is measured, against the float32 run of the same
    objective, and 6 times its largest value is allowed: sqrt(2), a margin of 3 for the largest of many, and
    one of 1.4 because the error is known from a single drawing, which another processor draws anew.
    """
    half, whole = run_of(HALF_BASE, runs, "half"), run_of(BASES["sparsepo"], runs)
    loss = max(abs(a - b) for a, b in zip(half.losses(), whole.losses(), strict=True))
    states = [
        largest(load_file(half.folder / file), load_file(whole.folder / file))
        for file in (POLICY, checkpoint.WEIGHTS)
    ]
    return [6 * error for error in (loss, *states)]


def test_the_bf16_tolerances_are_of_the_size_that_rounding_explains(half_tolerances, runs):
    loss, policy, masks = half_tolerances
    # Each of the T log-probabilities of a pair is off by about ROUNDING times a logit of size 1, of policy
    # and reference alike; errors add up as a random walk, and a loss averages over 8 pairs. beta is 1.
    tokens = 2 * run_of(BASES["sparsepo"], runs).lines("train")[0]["reward_mask_l1"]
    walk = ROUNDING * math.sqrt(2 * tokens / 8)
    assert 0 < loss <= 6 * walk
    # A weight's distance is at most the rounding of the saved number (size 1) and what steps of at most the
    # learning rate, taken the other way, can add up to: 2 x 6 x 0.003, for masks 2 x 6 x 0.05.
    assert 0 < policy <= 6 * (ROUNDING + 2 * 6 * 0.003)
    assert 0 < masks <= 6 * (ROUNDING + 2 * 6 * 0.05)


@pytest.mark.parametrize("cell", HALF[1:], ids=name)
def test_bf16_cells_agree_within_the_precision_of_bf16(cell, runs, half_tolerances):
    run, base = (run_of(one, runs, "half") for one in (cell, HALF_BASE))
    loss, policy, masks = half_tolerances
    assert max(abs(a - b) for a, b in zip(run.losses(), base.losses(), strict=True)) <= loss
    assert largest(load_file(run.folder / POLICY), load_file(base.folder / POLICY)) <= policy
    files = [load_file(folder / checkpoint.WEIGHTS) for folder in (run.folder, base.folder)]
    assert largest(*files) <= masks


@pytest.mark.parametrize("kind", ["tensor-parallel", "tensor-parallel-packed"])
def test_tensor_parallel_processes_agree_with_one_process(kind, runs, half_tolerances):
    run, base = runs[1][kind], run_of(HALF_BASE, runs, "half")
    assert run.code == 0, run.err[-3000:]
    loss, policy, masks = half_tolerances
    assert max(abs(a - b) for a, b in zip(run.losses(), base.losses(), strict=True)) <= loss
    assert largest(load_file(run.folder / POLICY), load_file(base.folder / POLICY)) <= policy
    files = [load_file(folder / checkpoint.WEIGHTS) for folder in (run.folder, base.folder)]
    assert largest(*files) <= masks


def test_mapo_masks_of_tensor_parallel_processes_are_those_of_whole_activations(runs, half_tolerances):
    run, base = runs[1]["tensor-parallel-mapo"], run_of(HALF_MAPO, runs, "half")
    assert run.code == 0, run.err[-3000:]
    first, expected = (one.lines("train")[0] for one in (run, base))
    for side in ("chosen", "rejected"):
        metric = f"{side}_reward_mask_mean"
        # A mean in [0, 1] of a whole response; masks of half an activation are off by 0.004 and more.
        assert first[metric] == pytest.approx(expected[metric], abs=ROUNDING / 4)
    assert max(abs(a - b) for a, b in zip(run.losses(), base.losses())) <= half_tolerances[0]


def test_zero_0_in_bf16_is_the_documented_exception(runs):
    """No float32 copy of the weights there, by DeepSpeed's own choice: it trains, on another course."""
    exception, usual = (runs[0][key].losses() for key in ("bf16-zero-0", "accumulation-dtype"))
    assert exception[-1] < 0.5 * exception[0]
    assert exception != usual


def test_the_names_of_runs_are_unique():
    assert not {name(cell) for cell in CELLS} & set(mode_runs.double_modes())
