"""Axolotl configurations for the tests: a shipped one on a tiny model, and the program itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from trl_runs import ROOT, Tiny, run

CONFIGS = ROOT / "configs/train/axolotl"


def on_tiny_model(name: str, tiny: Tiny, out: Path, **changes: Any) -> dict[str, Any]:
    """A shipped configuration with model, data, sizes and machine replaced; None takes a key out."""
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    rows = tiny.root / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny.rows()))
    content["datasets"][0]["path"] = str(rows)
    changed = {
        "base_model": str(tiny.model), "output_dir": str(out),
        "dataset_prepared_path": str(tiny.root / "prepared"), "sequence_len": 64,
        "gradient_accumulation_steps": 1, "learning_rate": 3e-3, "lr_scheduler": "constant",
        "warmup_ratio": None, "rl_beta": 1.0, "bf16": False, "tf32": False, "attn_implementation": "eager",
        "optimizer": "adamw_torch", "gradient_checkpointing": False, "saves_per_epoch": None,
        "dataset_num_proc": 1, **changes,
    }  # fmt: skip
    merged = {**content, **changed}
    return {key: value for key, value in merged.items() if value is not None}


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def axolotl_train(path: Path) -> Any:
    """``axolotl train run.yaml``, in this process's environment."""
    program = str(Path(sys.executable).with_name("axolotl"))
    return run([program, "train", str(path), "--launcher", "python"], path.parent)
