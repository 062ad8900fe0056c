"""Tiny models, data and trainers for the tests of TRL's and Axolotl's adapters; nothing is downloaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from sparsepo_plugin import registry
from sparsepo_plugin.adapters.trl import SparsePOConfig, SparsePOTrainer
from sparsepo_plugin.demo.language import generate_pairs, vocabulary, write_jsonl
from sparsepo_plugin.demo.tiny import build_model, build_tokenizer, save_tiny

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Both masks are alive at the start with this seed.
SEED = 3
SPARSE = {"masks": "independent", "normalise": "none", "mask_lr": 0.02, "reward_l1": 0.002, "kl_l1": 0.001}

disable_progress_bars()
logging.disable_progress_bar()


@dataclass(frozen=True)
class Tiny:
    """A model folder, and pairs as a file and as rows: 40 to train on, 7 held out."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model"

    def rows(self, count: int = 40, skip: int = 0) -> Dataset:
        names = ("prompt", "chosen", "rejected")
        pairs = generate_pairs(count + skip, 0)[skip:]
        return Dataset.from_list([{name: getattr(pair, name) for name in names} for pair in pairs])

    def weighted_rows(self, count: int = 40, skip: int = 0) -> Dataset:
        """The same rows with columns of token weights."""
        path = self.root / f"weighted-{count}-{skip}.jsonl"
        write_jsonl(generate_pairs(count + skip, 0)[skip:], path, weighted=True)
        names = ("prompt", "chosen", "rejected", "chosen_weights", "rejected_weights")
        rows = map(json.loads, path.read_text().splitlines())
        return Dataset.from_list([{name: row[name] for name in names} for row in rows])

    def trainer(
        self,
        out: Path,
        loss: str = "sparsepo",
        options: dict[str, Any] | None = None,
        *,
        evaluate: bool = False,
        trainer: type = SparsePOTrainer,
        given: dict[str, Any] | None = None,
        **args: Any,
    ) -> Any:
        """A trainer of 10 steps of 4 pairs; ``given`` goes to the trainer, ``args`` to its arguments."""
        defaults = {
            "output_dir": str(out), "preference_loss": loss, "loss_options": options or {}, "use_cpu": True,
            "bf16": False, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "max_steps": 10,
            "logging_steps": 1, "learning_rate": 3e-3, "lr_scheduler_type": "constant", "beta": 1.0,
            "seed": SEED, "report_to": "none", "disable_tqdm": True, "max_length": 64, "save_strategy": "no",
            "gradient_checkpointing": False,
        }  # fmt: skip
        config = SparsePOConfig(**{**defaults, **args})
        weighted = registry.get(loss).options().needs().token_weights
        rows = self.weighted_rows if weighted else self.rows
        keywords: dict[str, Any] = {
            "model": AutoModelForCausalLM.from_pretrained(self.model, dtype="float32"),
            "train_dataset": rows(),
            "processing_class": AutoTokenizer.from_pretrained(self.model),
        }
        if evaluate:
            keywords["eval_dataset"] = rows(7, skip=40)
        return trainer(args=config, **{**keywords, **(given or {})})


def lines(folder: Path, split: str) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl of one split."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["split"] == split]


def losses(folder: Path, split: str = "train") -> list[float]:
    return [row["loss"] for row in lines(folder, split)]


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with this repository importable."""
    gone = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT), str(HERE)])
    kept = {key: value for key, value in os.environ.items() if key not in gone}
    return subprocess.run(
        [sys.executable, *command], env={**kept, "PYTHONPATH": path, **environment}, cwd=folder, text=True,
        capture_output=True, timeout=550,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Write model and data once."""
    root = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer(vocabulary())
    save_tiny(root / "model", build_model(tokenizer, hidden_size=32, heads=2), tokenizer)
    write_jsonl(generate_pairs(40, 0), root / "train.jsonl")
    return Tiny(root)
