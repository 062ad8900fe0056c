"""Two processes under DDP, DeepSpeed and FSDP2 train what one process trains, and go on from a checkpoint.

The cover: every two of {spread, tuned, checkpointing, loss} meet in some cell. Further cells change one
thing more. FSDP2 runs accelerate's own code on a CPU (``cells.OnCPU``), with an optimizer that has a state:
torch cannot read one back that holds nothing.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import cells
import pytest
import torch
from cells import Cell
from safetensors.torch import load_file
from trl_runs import run

from sparsepo_plugin import checkpoint

COVER = [
    Cell("ddp", "full", "off", "dpo"),
    Cell("ddp", "lora", "on", "sparsepo"),
    Cell("ddp", "full", "on", "mapo"),
    Cell("zero1", "lora", "on", "dpo"),
    Cell("zero1", "full", "off", "sparsepo"),
    Cell("zero1", "lora", "off", "mapo"),
    Cell("zero2", "full", "on", "dpo"),
    Cell("zero2", "lora", "off", "sparsepo"),
    Cell("zero2", "full", "off", "mapo"),
    Cell("zero3", "lora", "off", "dpo"),
    Cell("zero3", "full", "on", "sparsepo"),
    Cell("zero3", "lora", "on", "mapo"),
    Cell("fsdp2", "full", "on", "dpo", "adam"),
    Cell("fsdp2", "lora", "on", "sparsepo", "adam"),
    Cell("fsdp2", "full", "off", "mapo", "adam"),
]
FURTHER = [
    Cell("fsdp2", "full", "off", "sparsepo", "adam"),
    Cell("ddp", "full", "reentrant", "sparsepo"),
    Cell("zero2", "full", "reentrant", "sparsepo"),
    Cell("zero3", "lora", "reentrant", "sparsepo"),
    Cell("zero2", "full", "off", "sparsepo", "accumulated"),
    Cell("zero3", "full", "off", "sparsepo", "accumulated"),
    Cell("fsdp2", "full", "off", "sparsepo", "adam_accumulated"),
    Cell("fsdp2", "full", "off", "sparsepo", "adam_clipped"),
    Cell("zero2", "full", "off", "sparsepo", "adam"),
    Cell("zero1", "full", "off", "sparsepo", "adam_file"),
    Cell("zero3", "full", "off", "sparsepo", "adam_file"),
    Cell("zero2", "full", "off", "sparsepo", "offloaded"),
    Cell("zero3", "full", "off", "sparsepo", "parameters_offloaded"),
    Cell("zero3", "full", "off", "sparsepo", "killed"),
]
BEST = [
    Cell("zero3", "full", "off", "sparsepo", "best"),
    Cell("zero3", "lora", "off", "sparsepo", "best"),
    Cell("zero2", "full", "off", "sparsepo", "best"),
    Cell("fsdp2", "full", "off", "sparsepo", "adam_best"),
    Cell("fsdp2", "lora", "off", "sparsepo", "adam_best"),
]
HALF = [Cell(spread, "full", "on", "sparsepo", "bf16") for spread in ("zero2", "zero3")]
WRONG = [Cell("zero2", "full", "off", "sparsepo", change) for change in ("skipped", "doubled")]
PARTS = ("losses", "gradients", "masks", "policy")


def alone(cell: Cell) -> Cell:
    """The cell whose numbers one process gives for this one."""
    plain = "adam" if cell.change.startswith("adam") else ""
    change = cell.change if cell.change in ("adam_clipped", "adam_best", "best") else plain
    return Cell("one", cell.tuned, "off", cell.loss, change)


@pytest.fixture(scope="module")
def out(tiny, tmp_path_factory):
    """A launch of two processes that die, two that train all cells, and one process for the numbers."""
    folder = tmp_path_factory.mktemp("sharded")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "cells"]
    every = [*COVER, *FURTHER, *BEST, *HALF, *WRONG]
    # In parts, so that none nears the limit of a launch on a busy machine.
    parts = {
        "killed": [c for c in every if c.change == "killed"],
        "cover": COVER,
        "rest": every[len(COVER) :],
    }
    for name, chosen in parts.items():
        (folder / f"{name}.json").write_text(json.dumps(chosen))
        done = run([*launcher, str(tiny.root), str(folder), str(folder / f"{name}.json")], folder)
        if name == "killed":
            assert "Signal 9 (SIGKILL)" in done.stderr, done.stderr[-5000:]
            continue
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    for cell in {alone(cell) for cell in every}:
        cells.train(tiny, folder, cell)
    return folder


def numbers(out: Path, cell: Cell, kind: str, rank: int = 0) -> dict[str, list[torch.Tensor]]:
    """Tensors of a training by PARTS; of a resumed one those of its own steps."""
    result = torch.load(out / f"{cell.name}-{rank}.pt")[kind]
    return {
        "losses": [torch.tensor(loss, dtype=torch.float64) for loss in result["losses"]],
        "gradients": list(itertools.chain(*result["gradients"])),
        "masks": list(result["masks"].values()),
        "policy": [result["policy"][name] for name in sorted(result["policy"])],
    }


def differences(out: Path, cell: Cell, kind: str) -> dict[str, float]:
    """Largest difference of each of PARTS to what one process trains."""
    one, two = numbers(out, alone(cell), "whole"), numbers(out, cell, kind)
    if kind == "resumed":
        one["losses"], two["losses"] = one["losses"][-1:], two["losses"][-1:]
        one["gradients"] = one["gradients"][len(one["gradients"]) - len(two["gradients"]) :]
    found = {}
    for part in PARTS:
        assert len(one[part]) == len(two[part]), part
        pairs = zip(one[part], two[part], strict=True)
        found[part] = max((float((left - right).abs().max()) for left, right in pairs), default=0.0)
    return found


def test_every_two_of_the_covers_dimensions_meet():
    dimensions = list(zip(*(cell[:4] for cell in COVER), strict=True))
    for left, right in itertools.combinations(dimensions, 2):
        assert set(zip(left, right, strict=True)) == set(itertools.product(left, right))


@pytest.mark.parametrize("cell", [*COVER, *FURTHER, *BEST], ids=lambda cell: cell.name)
def test_two_processes_train_what_one_trains(out, cell):
    kinds = ("resumed",) if cell.change == "killed" else ("whole", "resumed")
    for kind in kinds:
        assert max(differences(out, cell, kind).values()) < 1e-5, kind
        ranks = [numbers(out, cell, kind, rank)["masks"] for rank in (0, 1)]
        assert all(map(torch.equal, *ranks))


@pytest.mark.parametrize("cell", BEST, ids=lambda cell: cell.name)
def test_the_best_checkpoint_is_what_stays_in_the_end(out, cell):
    found = torch.load(out / f"{cell.name}-0.pt")
    first, last = (
        load_file(out / f"{cell.name}/whole/checkpoint-{step}" / checkpoint.WEIGHTS) for step in (1, 3)
    )
    for kind in ("whole", "resumed"):
        masks = found[kind]["masks"]
        assert all(torch.equal(masks[name], value) for name, value in first.items()), kind
        assert any(not torch.equal(masks[name], value) for name, value in last.items()), kind
    # The plain cell's policy is that of the third step.
    plain = torch.load(
        out / f"{alone(cell)._replace(change=cell.change.removesuffix('best').rstrip('_')).name}-0.pt"
    )
    policies = [run["whole"]["policy"] for run in (found, plain)]
    assert max(float((policies[0][name] - value).abs().max()) for name, value in policies[1].items()) > 1e-4


@pytest.mark.parametrize("cell", HALF, ids=lambda cell: cell.name)
def test_in_bfloat16_a_resumed_run_is_the_whole_one_and_near_float32(out, cell):
    whole, resumed = (numbers(out, cell, kind) for kind in ("whole", "resumed"))
    for part in ("losses", "masks", "policy"):
        assert all(map(torch.equal, whole[part], resumed[part])), part
    exact = numbers(out, alone(cell), "whole")["losses"]
    assert [float(loss) for loss in whole["losses"]] == pytest.approx(
        [float(loss) for loss in exact], rel=0.01
    )


@pytest.mark.parametrize("cell", WRONG, ids=lambda cell: cell.change)
def test_a_wrong_reduction_of_the_masks_gradients_is_seen(out, cell):
    found = differences(out, cell, "whole")
    assert found["gradients"] > 1e-3
    assert found["masks"] > 1e-4


def test_the_mask_modules_optimizer_lies_beside_the_policys(out):
    folder = out / "zero3-full-off-sparsepo-killed/whole/checkpoint-2"
    assert (folder / "sparsepo_mask_optimizer.pt").exists()
    assert (folder / "sparsepo_masks.safetensors").exists()
    assert not list(folder.glob(".*.part"))
