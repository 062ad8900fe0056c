"""Folders of runs as a training leaves them, made without one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import yaml

EDGES = [0.01, 0.1, 1.0]


def metrics(step: int, shift: float = 0.0, **changed) -> dict:
    """One line with every metric of a masked loss."""
    names = ("loss", "margin", "margin_unmasked", "reward_mask_mean", "kl_mask_mean")
    row = dict.fromkeys(names, 0.7 + shift + 0.01 * step)
    row |= dict.fromkeys(("accuracy", "accuracy_unmasked"), 0.5 + shift / 10)
    row |= {f"{side}_sequence_kl": 0.1 * step + shift for side in ("chosen", "rejected")}
    row |= {f"{mask}_mask_sparsity": 1 - math.exp(-step / 20) for mask in ("reward", "kl")}
    return {**row, **changed}


def write(
    folder: Path, *, seed: int = 0, loss: str = "sparsepo", beta: float = 0.1, steps: int = 20, **config
) -> Path:
    """Write a run: ``steps`` training rows, an evaluation every fifth, its histograms and configuration."""
    folder.mkdir(parents=True)
    rows = [{"step": n, "split": "train", **metrics(n, seed)} for n in range(1, steps + 1)]
    rows += [{"step": n, "split": "eval", **metrics(n, seed + 0.5)} for n in range(0, steps + 1, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {
        "loss": loss,
        "model": {"beta": beta},
        "train": {"seed": seed},
        "ckpt": {"output_dir": str(folder), "path": str(folder / "deepspeed")},
        "logger": {"wandb": {"run_name": f"at-{seed}"}},
        **config,
    }
    (folder / "sparsepo_config.yaml").write_text(yaml.safe_dump(tree))
    heads = [{"schema_version": 1, "step": n, "edges": EDGES} for n in range(0, steps + 1, 5)]
    bars = [{"zeros": head["step"], "counts": [1, 2, 3, 4 + seed]} for head in heads]
    lines = [{**head, "reward_mask": bar, "kl_mask": None} for head, bar in zip(heads, bars)]
    (folder / "mask_histograms.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
