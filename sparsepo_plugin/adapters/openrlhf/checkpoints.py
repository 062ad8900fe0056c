"""DeepSpeed checkpoints that survive a kill: which are complete, what they belong to, their random state.

A checkpoint is complete once its marker file lies in its folder; the marker is the last file written before
``latest``, and both are replaced atomically. A folder that is still being written holds another marker.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import write_text
from sparsepo_plugin.options import LossOptions

COMPLETE, PARTIAL, LATEST = "sparsepo_complete.json", "sparsepo_partial", "latest"
SCHEMA_VERSION = 1
MASK_MODULE = "sparsepo_masks"  # the mask module's name inside the policy
# Options of the data, besides the data themselves, that change what is trained on.
DATA_KEYS = (
    "dataset_probs",
    "dataset_split",
    "max_samples",
    "max_len",
    "prompt_key",
    "chosen_key",
    "rejected_key",
)
_STEP = re.compile(r"global_step(\d+)")


class Saved(NamedTuple):
    """A complete checkpoint.

    Attributes:
      tag: name of its folder.
      step: optimizer steps taken.
      record: what ``identity`` gave when it was saved, and the number of processes.
    """

    tag: str
    step: int
    record: dict[str, Any]


def identity(arguments: SimpleNamespace, objective: ConfiguredLoss | None) -> dict[str, Any]:
    """What must be the same when a run is resumed: loss, its options, data, batches, seed."""
    data = {"dataset": arguments.data.dataset, "content": fingerprint(arguments.data.dataset)}
    return {
        "loss": None if objective is None else objective.loss.name,
        "options": {} if objective is None else _relevant(objective.options),
        "data": {**data, **{key: getattr(arguments.data, key) for key in DATA_KEYS}},
        "train.batch_size": arguments.train.batch_size,
        "train.seed": arguments.train.seed,
        "model.model_name_or_path": arguments.model.model_name_or_path,
        "model.beta": arguments.model.beta,
        "ds.zero_stage": arguments.ds.zero_stage,
        "ds.lora.rank": arguments.ds.lora.rank,
    }


def blueprint(arguments: SimpleNamespace, record: dict[str, Any] | None) -> dict[str, Any]:
    """What a checkpoint must remember so that the policy and the masks can be built again.

    Args:
      arguments: upstream's arguments.
      record: Objective.record, or None for upstream's own loss.
    """
    ds, lora = arguments.ds, arguments.ds.lora
    return {
        "model": arguments.model.model_name_or_path,
        "trust_remote_code": arguments.model.trust_remote_code,
        "fast_tokenizer": not arguments.data.disable_fast_tokenizer,
        "actor": {
            "attn_implementation": ds.attn_implementation,
            "param_dtype": ds.param_dtype,
            "load_in_4bit": ds.load_in_4bit,
            "lora_rank": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "target_modules": lora.target_modules,
        },
        "masks": record,
    }


def _relevant(options: LossOptions) -> dict[str, Any]:
    """Options without those that change no number of the training."""
    fields = [field for field in dataclasses.fields(options) if field.metadata["affects"] != "nothing"]
    return {field.name: getattr(options, field.name) for field in fields}


def fingerprint(dataset: str) -> str:
    """SHA-256 over the local files of a dataset option; names of hub datasets enter as they are."""
    digest = hashlib.sha256()
    for part in dataset.split(","):
        path = Path(part.strip().split("@")[0].strip())
        digest.update(path.name.encode())
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.is_file():
                with open(file, "rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def complete(folder: Path) -> list[Saved]:
    """Complete checkpoints of a folder, the newest first; other folders are left out."""
    found = []
    for marker in folder.glob(f"*/{COMPLETE}"):
        record = json.loads(marker.read_text(encoding="utf-8"))
        found.append(Saved(marker.parent.name, record["step"], record))
    return sorted(found, key=lambda saved: saved.step, reverse=True)


def to_resume(folder: Path) -> Saved | None:
    """The checkpoint that ``latest`` names if it is complete, else the newest that is; None without any."""
    found = complete(folder)
    latest = folder / LATEST
    named = latest.read_text(encoding="utf-8").strip() if latest.is_file() else ""
    return next((saved for saved in found if saved.tag == named), found[0] if found else None)


def foreign(folder: Path) -> bool:
    """Whether the checkpoints there were written by upstream's own trainer, which has no markers."""
    return (folder / LATEST).is_file() and not any(folder.glob(f"*/{PARTIAL}")) and not complete(folder)


def check_same(saved: Saved, now: dict[str, Any], folder: Path) -> None:
    """Refuse to continue a run as another one.

    Raises:
      UserError: naming the first difference with both values.
    """
    then = json.loads(json.dumps(now))  # the same JSON types on both sides
    for key, value, old in _differences(then, saved.record["identity"]):
        raise UserError(
            f"cannot resume from {folder / saved.tag}: {key} is {value!r} now and was {old!r}; give the old "
            f"value, or train anew with another --ckpt.path"
        )


def _differences(now: dict[str, Any], old: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for key in now.keys() | old.keys():
        one, other = now.get(key), old.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append((f"{prefix}{key}", one, other))
    return sorted(found, key=lambda item: item[0])


def begin(folder: Path, tag: str) -> None:
    """Mark a checkpoint as being written; what a killed run left of it goes first."""
    target = folder / tag
    if (target / PARTIAL).exists():
        shutil.rmtree(target)
    target.mkdir(parents=True, exist_ok=True)
    (target / COMPLETE).unlink(missing_ok=True)
    (target / PARTIAL).touch()


def finish(folder: Path, tag: str, record: dict[str, Any], keep: int) -> None:
    """Mark a checkpoint as complete, name it in ``latest``, and delete complete ones beyond ``keep``."""
    step = int(match[1]) if (match := _STEP.fullmatch(tag)) else 0
    content = {"schema_version": SCHEMA_VERSION, "step": step, **record}
    write_text(folder / tag / COMPLETE, json.dumps(content, indent=2) + "\n")
    (folder / tag / PARTIAL).unlink(missing_ok=True)
    write_text(folder / LATEST, tag)
    for saved in [saved for saved in complete(folder) if _STEP.fullmatch(saved.tag)][max(1, keep) :]:
        shutil.rmtree(folder / saved.tag)


def remove_partial(folder: Path) -> list[str]:
    """Delete checkpoints that a killed run left half-written; returns their names."""
    names = [marker.parent.name for marker in folder.glob(f"*/{PARTIAL}")]
    for name in names:
        if not (folder / name / COMPLETE).exists():
            shutil.rmtree(folder / name)
    return names


def save_random_state(folder: Path, rank: int) -> None:
    """Write the process's random state beside the checkpoint's own files, atomically."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    part = folder / f".random_{rank}.part"
    torch.save(state, part)
    os.replace(part, folder / f"random_{rank}.pt")


def load_random_state(folder: Path, rank: int) -> dict[str, torch.Tensor] | None:
    """Read what save_random_state wrote, or None."""
    path = folder / f"random_{rank}.pt"
    return torch.load(path, weights_only=True) if path.is_file() else None


def restore_random_state(state: dict[str, torch.Tensor]) -> None:
    """Continue the random sequence of the saved run."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
