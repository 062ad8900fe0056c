"""Mask modules as each trainer leaves them, with the masks they give, for the other environment to read.

``python tests/golden/mask_folders.py openrlhf`` or ``... trl``, in the environment of that trainer: trains
three steps on a tiny model, keeps the two mask files in tests/golden/masks_<trainer>/ and, in masks.npz
beside them, hidden states and the masks that the module made of them there.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsepo_plugin import checkpoint
from sparsepo_plugin.demo.language import generate_pairs, vocabulary, write_jsonl
from sparsepo_plugin.demo.tiny import build_model, build_tokenizer, save_tiny
from sparsepo_plugin.types import ReferenceState

FOLDERS = {name: Path(__file__).with_name(f"masks_{name}") for name in ("openrlhf", "trl")}
OPTIONS = {"anchor": 0.0, "masks": "independent", "normalise": "none", "mask_lr": 0.05, "width": 4}
WIDTH, LAYERS, RESPONSE = 16, 2, [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]


def masks_of(folder: Path, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Load a folder's module and apply it to hidden states [layers, rows, seq, width]."""
    module = checkpoint.load_masks(folder).module
    states: tuple[Tensor, ...] = tuple(torch.from_numpy(hidden))
    with torch.no_grad():
        masks = module(ReferenceState(states, torch.tensor(RESPONSE, dtype=torch.bool)))
    assert masks.kl_mask is not None
    return masks.reward_mask.float().numpy(), masks.kl_mask.float().numpy()


def train_openrlhf(root: Path) -> None:
    from sparsepo_plugin import train_dpo

    options = [part for name, value in OPTIONS.items() for part in (f"--sparsepo.{name}", str(value))]
    code = train_dpo.main(
        [
            *("--loss", "sparsepo", *options, "--model.model_name_or_path", str(root / "model")),
            *(
                "--data.dataset",
                str(root / "train.jsonl"),
                "--data.prompt_key",
                "prompt",
                "--data.max_len",
                "128",
            ),
            *("--train.batch_size", "8", "--train.micro_batch_size", "4", "--adam.lr", "0.003"),
            *("--ckpt.output_dir", str(root / "out"), "--ckpt.path", str(root / "steps")),
        ]
    )
    assert code == 0


def train_trl(root: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sparsepo_plugin.adapters.trl import SparsePOConfig, SparsePOTrainer

    args: dict[str, Any] = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no"}
    config = SparsePOConfig(str(root / "out"), loss_options=OPTIONS, max_steps=3, learning_rate=3e-3, **args)
    data = load_dataset("json", data_files=str(root / "train.jsonl"), split="train")
    trainer = SparsePOTrainer(
        model=AutoModelForCausalLM.from_pretrained(root / "model"),
        args=config,
        train_dataset=data.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=AutoTokenizer.from_pretrained(root / "model"),
    )
    trainer.train()
    trainer.save_model()


def write(trainer: str) -> None:
    """Train, keep the mask files and what they do."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        tokenizer = build_tokenizer(vocabulary())
        model = build_model(tokenizer, hidden_size=WIDTH, heads=2, layers=LAYERS)
        save_tiny(root / "model", model, tokenizer)
        write_jsonl(generate_pairs(24, 0), root / "train.jsonl")
        {"openrlhf": train_openrlhf, "trl": train_trl}[trainer](root)
        folder = FOLDERS[trainer]
        folder.mkdir(exist_ok=True)
        for file in (checkpoint.WEIGHTS, checkpoint.RECORD):
            shutil.copy(root / "out" / file, folder / file)
    hidden = torch.randn(LAYERS, 2, 6, WIDTH, generator=torch.Generator().manual_seed(0)).numpy()
    reward, kl = masks_of(folder, hidden)
    np.savez_compressed(folder / "masks.npz", hidden=hidden, reward=reward, kl=kl)
    print(folder, reward[0], kl[0])


if __name__ == "__main__":
    write(sys.argv[1])
