"""Axolotl itself in two processes: they train what one trains on the whole batch, under DDP and ZeRO-3."""

from __future__ import annotations

import json

import pytest
import torch
from axolotl_runs import axolotl_train, on_tiny_model, write
from cells import deepspeed_config
from safetensors.torch import load_file
from trl_runs import losses, run

from sparsepo_plugin import checkpoint

OPTIONS = {"masks": "independent", "normalise": "none", "mask_lr": 0.02, "reward_l1": 0.001}


@pytest.fixture(scope="module")
def out(tiny, tmp_path_factory):
    """One process, and two under each way of spreading the policy."""
    root = tmp_path_factory.mktemp("axolotl_processes")
    changes = {
        "max_steps": 3, "save_steps": 2, "sparsepo": OPTIONS, "optimizer": "sgd", "learning_rate": 0.05,
        "max_grad_norm": 0.0, "shuffle_merged_datasets": False,
    }  # fmt: skip
    (root / "zero3.json").write_text(json.dumps(deepspeed_config(3)))
    for name, more in (("one", {}), ("ddp", {}), ("zero3", {"deepspeed": str(root / "zero3.json")})):
        (root / name).mkdir()
        size = 4 if name == "one" else 2
        content = on_tiny_model(
            "sparsepo-independent", tiny, root / name / "out", micro_batch_size=size, **changes, **more
        )
        path = write(root / name, content)
        if name == "one":
            done = axolotl_train(path)
        else:
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
            done = run([*launcher, "-m", "axolotl_on_cpu", str(path)], root / name)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return root


@pytest.mark.parametrize("way", ["ddp", "zero3"])
def test_two_processes_train_what_one_trains(out, way):
    assert losses(out / way / "out") == pytest.approx(losses(out / "one/out"), abs=1e-5)
    for name in ("model.safetensors", checkpoint.WEIGHTS):
        one, two = (load_file(out / kind / "out" / name) for kind in ("one", way))
        assert set(one) == set(two)
        assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-5, name


def test_checkpoints_hold_the_mask_module_and_its_optimizer(out):
    for way, own in (("ddp", False), ("zero3", True)):
        folder = out / way / "out/checkpoint-2"
        assert (folder / checkpoint.WEIGHTS).exists()
        assert (folder / "sparsepo_mask_optimizer.pt").exists() == own
        run_file = json.loads((out / way / "out/sparsepo_run.json").read_text())
        assert run_file["processes"] == 2
    assert torch.load(folder / "sparsepo_mask_optimizer.pt")["param_groups"]
