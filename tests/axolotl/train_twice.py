"""Train with and without averaging the mask module's gradients, in every process of a launcher.

``torchrun --nproc_per_node=2 -m train_twice INPUTS OUT``: writes OUT/<kind>-<rank>.pt, policy and mask module
of every process after 10 steps.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from trl import DPOTrainer
from trl_runs import SPARSE, Tiny

from sparsepo_plugin.adapters.trl import SparsePOTrainer


class NaiveTrainer(SparsePOTrainer):
    """The mask module as a bystander: an attribute of the trainer and a parameter group, nothing more."""

    def training_step(self, *args, **options):
        self.mask_training.average_gradients = lambda: None
        return super().training_step(*args, **options)

    _clip_grad_norm = DPOTrainer._clip_grad_norm


def train(tiny: Tiny, out: Path, kinds: tuple[str, ...]) -> None:
    """Train every kind for 10 steps of 4 pairs over all processes."""
    lora = {"peft_config": LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")}
    accumulated = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    runs = {
        "synchronised": (SparsePOTrainer, {}, {}),
        "naive": (NaiveTrainer, {}, {}),
        "accumulated": (SparsePOTrainer, accumulated, {}),
        "peft": (SparsePOTrainer, {"gradient_checkpointing": True}, lora),
    }
    rank = os.environ.get("RANK", "0")
    for kind in kinds:
        trainer_class, args, given = runs[kind]
        _train(tiny, out, kind, rank, trainer_class, args, given)


def _train(
    tiny: Tiny,
    out: Path,
    kind: str,
    rank: str,
    trainer_class: type,
    args: dict[str, Any],
    given: dict[str, Any],
) -> None:
    size = {"per_device_train_batch_size": 4 // int(os.environ.get("WORLD_SIZE", "1"))}
    trainer = tiny.trainer(
        out / kind, options={**SPARSE, "record": 7}, trainer=trainer_class, evaluate=True, optim="sgd",
        learning_rate=0.05, eval_strategy="steps", eval_steps=5, save_strategy="steps", save_steps=5,
        given=given, **{**size, **args},
    )  # fmt: skip
    trainer.train()
    state = {"policy": trainer.model.state_dict(), "masks": trainer.mask_training.module.state_dict()}
    torch.save(state, out / f"{kind}-{rank}.pt")


if __name__ == "__main__":
    train(Tiny(Path(sys.argv[1])), Path(sys.argv[2]), ("synchronised", "naive", "accumulated", "peft"))
    torch.distributed.destroy_process_group()
