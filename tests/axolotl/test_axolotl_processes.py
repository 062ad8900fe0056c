"""Axolotl itself in two processes: they train what one trains on the whole batch, however the policy lies.

FSDP2 is given by Axolotl's own keys and done by its own ``fsdp2_prepare_model``; what it saves is whole.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from axolotl_runs import axolotl_train, on_tiny_model, write
from cells import deepspeed_config
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl_runs import losses, run

from sparsepo_plugin import checkpoint

OPTIONS = {"masks": "independent", "normalise": "none", "mask_lr": 0.02, "reward_l1": 0.001}
FSDP2 = {
    "reshard_after_forward": True, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "transformer_layer_cls_to_wrap": "LlamaDecoderLayer", "state_dict_type": "FULL_STATE_DICT",
}  # fmt: skip
SHARDED = {**FSDP2, "state_dict_type": "SHARDED_STATE_DICT"}
LORA = {
    "adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target_modules": ["q_proj"],
    "learning_rate": 100.0,  # of plain gradients of a tiny adapter, so that it changes something
}  # fmt: skip
WAYS = {
    "ddp": {},
    "zero3": {"deepspeed": "zero3.json"},
    "fsdp2": {"fsdp_version": 2, "fsdp_config": FSDP2},
    "fsdp2_sharded": {"fsdp_version": 2, "fsdp_config": SHARDED},
    "zero3_lora": {"deepspeed": "zero3.json", **LORA},
    "fsdp2_lora": {"fsdp_version": 2, "fsdp_config": FSDP2, **LORA},
}


@pytest.fixture(scope="module")
def out(tiny, tmp_path_factory):
    """One process, and two under each way of spreading the policy."""
    root = tmp_path_factory.mktemp("axolotl_processes")
    changes = {
        "max_steps": 3, "save_steps": 2, "sparsepo": OPTIONS, "optimizer": "sgd", "learning_rate": 0.05,
        "max_grad_norm": 0.0, "shuffle_merged_datasets": False,
    }  # fmt: skip
    (root / "zero3.json").write_text(json.dumps(deepspeed_config(3)))
    for name, more in {"one": {}, **WAYS}.items():
        (root / name).mkdir()
        alone = name == "one"
        given = {k: str(root / v) if k == "deepspeed" else v for k, v in more.items()}
        content = on_tiny_model(
            "sparsepo-independent", tiny, root / name / "out", micro_batch_size=4 if alone else 2,
            **{**changes, **given},
        )  # fmt: skip
        path = write(root / name, content)
        if alone:
            done = axolotl_train(path)
        else:
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
            done = run([*launcher, "-m", "axolotl_on_cpu", str(path)], root / name)
        (root / name / "said.txt").write_text(done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return root


@pytest.mark.parametrize("way", ["ddp", "zero3", "fsdp2", "fsdp2_sharded"])
def test_two_processes_train_what_one_trains(out, way):
    assert losses(out / way / "out") == pytest.approx(losses(out / "one/out"), abs=1e-5)
    for name in ("model.safetensors", checkpoint.WEIGHTS):
        one, two = (load_file(out / kind / "out" / name) for kind in ("one", way))
        assert set(one) == set(two)
        for key, value in two.items():
            # Axolotl rounds what it merges of sharded state dicts to bfloat16.
            torch.testing.assert_close(
                one[key].to(value.dtype), value, atol=1e-5, rtol=2**-8 if value.dtype == torch.bfloat16 else 0
            )


@pytest.mark.parametrize("way", ["zero3_lora", "fsdp2_lora"])
def test_the_adapter_that_is_saved_is_the_last_steps(out, way):
    """Axolotl draws it by other random numbers in each way: no other run has its numbers."""
    found = losses(out / way / "out")
    assert found[0] == pytest.approx(losses(out / "one/out")[0], abs=1e-5)
    for name in ("adapter_model.safetensors", checkpoint.WEIGHTS):
        last, final = (load_file(out / way / place / name) for place in ("out/checkpoint-3", "out"))
        assert set(last) == set(final)
        assert all(torch.equal(last[key], value) for key, value in final.items())


@pytest.mark.parametrize("way", WAYS)
def test_what_is_saved_loads(out, way, tiny):
    folder = out / way / "out"
    assert checkpoint.load_masks(folder).options.masks == "independent"
    if way.endswith("lora"):
        assert not list(folder.glob("model*"))
        assert PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny.model), folder)
        return
    _, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


@pytest.mark.parametrize("way", ["zero3_lora", "fsdp2_lora"])
def test_axolotls_merge_gives_the_model_with_its_adapter(out, way, tiny):
    # With the key deepspeed Axolotl would wait for the processes of a launcher.
    content = yaml.safe_load((out / way / "run.yaml").read_text())
    content.pop("deepspeed", None)
    (out / way / "merge").mkdir()
    path, ids = write(out / way / "merge", content), torch.tensor([[5, 6, 7, 8]])
    program = str(Path(sys.executable).with_name("axolotl"))
    done = run([program, "merge-lora", str(path), "--lora-model-dir", str(out / way / "out")], out / way)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    base = AutoModelForCausalLM.from_pretrained(tiny.model, dtype=torch.float32)
    before = base(ids).logits.detach()
    adapted = PeftModel.from_pretrained(base, out / way / "out")(ids).logits
    merged = AutoModelForCausalLM.from_pretrained(out / way / "out/merged", dtype=torch.float32)(ids).logits
    changed = float((adapted - before).abs().max())
    assert changed > 1e-3
    assert float((merged - adapted).abs().max()) < changed / 50


def test_axolotls_keys_reach_its_own_sharding(out):
    for way in WAYS:
        said = (out / way / "said.txt").read_text()
        assert ("sharded by Axolotl" in said) == way.startswith("fsdp2"), way
        assert said.count("sharded by Axolotl") in (0, 2), way  # the policy, in both processes


def test_checkpoints_hold_the_mask_module_and_its_optimizer(out):
    for way in WAYS:
        folder = out / way / "out/checkpoint-2"
        assert (folder / checkpoint.WEIGHTS).exists()
        assert (folder / "sparsepo_mask_optimizer.pt").exists() == (way != "ddp")
        run_file = json.loads((out / way / "out/sparsepo_run.json").read_text())
        assert run_file["processes"] == 2
    assert torch.load(folder / "sparsepo_mask_optimizer.pt")["param_groups"]
