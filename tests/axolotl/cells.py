"""Train cells of the cover here, or in every process of a launcher: ``cells.py TINY OUT CELLS.json``.

A cell is a way of spreading the policy and of tuning it, checkpointing or none, a loss, and a change of its
own. It trains three steps with a checkpoint after the second, and then once more from that checkpoint.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import deepspeed
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl_runs import Tiny

from sparsepo_plugin.adapters.trl import SparsePOTrainer
from sparsepo_plugin.adapters.trl.mask_training import MaskTraining

LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo": ("dpo", {}),
    "mapo": ("mapo", {}),
    "sparsepo": (
        "sparsepo",
        {"masks": "independent", "normalise": "none", "mask_lr": 0.02, "reward_l1": 0.002},
    ),
}


class Cell(NamedTuple):
    """One training; ``change`` names one of CHANGES."""

    spread: str
    tuned: str
    checkpointing: str
    loss: str
    change: str = ""

    @property
    def name(self) -> str:
        return "-".join(filter(None, self))


# What single cells change: arguments, and under "deepspeed" keys of its file. Adam's epsilon is large: with a
# small one rounding noise of a tiny gradient becomes a step of full size.
_ADAM: dict[str, Any] = {"optim": "adamw_torch", "learning_rate": 0.05, "adam_epsilon": 0.1}
_PARTS: dict[str, Any] = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
_FILE = {
    "type": "AdamW",
    "params": {**dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto"), "torch_adam": True},
}
# Recorder calls the first checkpoint the best: losses of seven pairs depend on how processes share them.
_BEST = {
    "evaluate": True, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1,
    "load_best_model_at_end": True, "metric_for_best_model": "earliness", "greater_is_better": True,
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "": {},
    "accumulated": _PARTS,
    "adam": _ADAM,
    "adam_accumulated": {**_ADAM, **_PARTS},
    "adam_clipped": {**_ADAM, "max_grad_norm": 0.05},
    "adam_best": {**_ADAM, **_BEST},
    "adam_file": {**_ADAM, "deepspeed": {"optimizer": _FILE}},
    "best": _BEST,
    "bf16": {"bf16": True},
    "parameters_offloaded": {
        "deepspeed": {
            "zero_optimization": {
                "stage": 3,
                "stage3_param_persistence_threshold": 0,
                "stage3_gather_16bit_weights_on_model_save": True,
                "offload_param": {"device": "cpu"},
                "offload_optimizer": {"device": "cpu"},
            },
        },
    },
    "offloaded": {
        "deepspeed": {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
    },
    "doubled": {},
    "skipped": {},
    "killed": {},
}


class Recorder(TrainerCallback):
    """Keeps the mask module's gradients of every step, as its optimizer was given them.

    Args:
      killed: die in the third step, as by ``kill -9``.
    """

    def __init__(self, *, killed: bool) -> None:
        self.trainer: Any = None
        self.gradients: list[list[torch.Tensor]] = []
        self._killed = killed

    def on_step_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        if self._killed and state.global_step == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_evaluate(self, _: Any, state: Any, __: Any, metrics: dict[str, float], **___: Any) -> None:
        metrics["eval_earliness"] = -state.global_step

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.gradients.append([p.grad.clone() for p in self.trainer.mask_training.parameters])


class OnCPU(SparsePOTrainer):
    """FSDP2 through accelerate's own code."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True,
            transformer_cls_names_to_wrap=["LlamaDecoderLayer"], cpu_ram_efficient_loading=False,
            state_dict_type="FULL_STATE_DICT",
        )  # fmt: skip
        shard_fully(self, plugin)


def shard_fully(trainer: Any, plugin: FullyShardedDataParallelPlugin) -> None:
    """Let accelerate run FSDP2, which it does by itself where there are accelerators only."""
    for state in (PartialState, AcceleratorState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["fsdp_plugin"] = plugin
    trainer.is_fsdp_enabled = True


def deepspeed_config(stage: int, **more: Any) -> dict[str, Any]:
    """A DeepSpeed file whose sizes are the arguments'."""
    zero: dict[str, Any] = {
        "stage": stage,
        "stage3_param_persistence_threshold": 0,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    sizes = ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps")
    automatic = dict.fromkeys((*sizes, "gradient_clipping"), "auto")
    return {**automatic, "zero_optimization": zero, "zero_force_ds_cpu_optimizer": False, **more}


def arguments(cell: Cell) -> dict[str, Any]:
    """Training arguments: four pairs a step over all processes."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    given: dict[str, Any] = {
        "per_device_train_batch_size": 4 // processes, "max_steps": 3, "save_strategy": "steps",
        "save_steps": 2, "max_grad_norm": 0.0, "optim": "sgd", "learning_rate": 0.05,
        "lr_scheduler_type": "linear",
    }  # fmt: skip
    if cell.checkpointing != "off":
        given["gradient_checkpointing"] = True
        given["gradient_checkpointing_kwargs"] = {"use_reentrant": cell.checkpointing == "reentrant"}
    changed = dict(CHANGES[cell.change])
    file = changed.pop("deepspeed", {})
    if cell.spread.startswith("zero"):
        given["deepspeed"] = deepspeed_config(int(cell.spread[-1]), **file)
    return {**given, **changed}


def build(tiny: Tiny, out: Path, cell: Cell, recorder: Recorder) -> Any:
    """The trainer of a cell."""
    loss, options = LOSSES[cell.loss]
    given: dict[str, Any] = {"callbacks": [recorder]}
    if cell.tuned == "lora":
        torch.manual_seed(0)
        given["peft_config"] = LoraConfig(
            r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False
        )
    kind = OnCPU if cell.spread == "fsdp2" else SparsePOTrainer
    trainer = tiny.trainer(out, loss, options, trainer=kind, given=given, **arguments(cell))
    recorder.trainer = trainer
    return trainer


@contextlib.contextmanager
def reduction(change: str) -> Iterator[None]:
    """Within the context the mask module's gradients are wrongly reduced, where a cell says so."""

    def wrong(training: MaskTraining) -> None:
        for parameter in training.parameters:
            if change == "doubled":
                dist.all_reduce(parameter.grad)

    if change not in ("doubled", "skipped"):
        yield
        return
    with mock.patch.object(MaskTraining, "average_gradients", wrong):
        yield


def forget() -> None:
    """Let the next trainer of this process be another kind of accelerate's."""
    gc.collect()
    unset_hf_deepspeed_config()
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        del os.environ[name]


def policy_of(trainer: Any, folder: Path) -> dict[str, torch.Tensor]:
    """The policy as it is saved."""
    trainer.save_model(str(folder))
    if dist.is_initialized():
        dist.barrier()
    adapted = hasattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config")
    return load_file(folder / f"{'adapter_model' if adapted else 'model'}.safetensors")


def train(tiny: Tiny, out: Path, cell: Cell) -> None:
    """Train a cell and resume it; every process writes OUT/NAME-RANK.pt."""
    rank, checkpoint = os.environ.get("RANK", "0"), out / cell.name / "whole/checkpoint-2"
    parts = {"whole": None, "resumed": str(checkpoint)}
    killed = cell.change == "killed" and not checkpoint.exists()
    if cell.change == "killed" and not killed:
        del parts["whole"]
    results = {}
    for kind, start in parts.items():
        recorder, folder = Recorder(killed=killed), out / cell.name / kind
        trainer = build(tiny, folder, cell, recorder)
        with reduction(cell.change):
            trainer.train(resume_from_checkpoint=start)
        results[kind] = {
            "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
            "gradients": recorder.gradients,
            "masks": trainer.mask_training.module.state_dict(),
            "policy": policy_of(trainer, folder / "final"),
        }
        del trainer, recorder.trainer
        forget()
    torch.save(results, out / f"{cell.name}-{rank}.pt")


if __name__ == "__main__":
    # On a CPU accelerate leaves DeepSpeed's own communication out, without which ZeRO-3 loads no model.
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    for row in json.loads(Path(sys.argv[3]).read_text()):
        train(Tiny(Path(sys.argv[1])), Path(sys.argv[2]), Cell(*row))
    dist.destroy_process_group()
