"""DeepSpeed's universal form of a checkpoint, which any number of processes can load."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from sparsepo_plugin.errors import RunFailedError


def name_of(tag: str) -> str:
    """Name of the universal form of a checkpoint."""
    return f"{tag}_universal"


def convert(source: Path, target: Path) -> None:
    """Convert a ZeRO 1, 2 or 3 checkpoint; an existing conversion is kept, a killed one made again.

    Raises:
      RunFailedError: DeepSpeed cannot convert it.
    """
    if target.is_dir():
        return
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"),
        *("--input_folder", str(source), "--output_folder", str(part)),
        *("--num_extract_workers", "1", "--num_merge_workers", "1"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunFailedError(f"{source}: DeepSpeed cannot convert it to its universal form: {reason}")
    os.replace(part, target)


def mend_stage_3(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Put right what DeepSpeed 0.19 does to the optimizer when it loads a universal checkpoint at stage 3.

    All groups get the first one's rate and decay: the masks would go on at the policy's learning rate until
    the scheduler's next step, and with its weight decay for good. And all parameters share one step count,
    which torch's Adam then raises once per parameter.

    Args:
      optimizer: torch's optimizer inside DeepSpeed's.
      folder: the universal checkpoint.
    """
    state = torch.load(folder / "zero" / "optimizer_state.pt", weights_only=False)
    saved: list[dict[str, Any]] = state["optimizer_state_dict"]["param_groups"]
    for group, old in zip(optimizer.param_groups, saved, strict=True):
        group.update({key: value for key, value in old.items() if key != "params"})
    for values in optimizer.state.values():
        if isinstance(values.get("step"), torch.Tensor):
            values["step"] = values["step"].clone()
