"""DeepSpeed checkpoints that survive a kill: which are complete and undamaged, and their random state.

A checkpoint is complete once its marker file lies in its folder; the marker is the last file written before
``latest``, and both are replaced atomically. It lists size and digest of every other file, so that one that
was cut, lost or changed later is known before a model is loaded. A folder that is still being written holds
another marker.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import digest, write_text

COMPLETE, PARTIAL, LATEST = "sparsepo_complete.json", "sparsepo_partial", "latest"
SCHEMA_VERSION = 2
MASK_MODULE = "sparsepo_masks"  # the mask module's name inside the policy
_STEP = re.compile(r"global_step(\d+)")
_GIGABYTE = 1024**3


class Saved(NamedTuple):
    """A complete checkpoint.

    Attributes:
      tag: name of its folder.
      step: optimizer steps taken.
      record: ``identity`` and ``build`` of run_identity, the number of processes, ``files``.
    """

    tag: str
    step: int
    record: dict[str, Any]


class Found(NamedTuple):
    """What a folder of checkpoints offers to a run that resumes.

    Attributes:
      saved: the checkpoint to go on from, or None.
      damaged: what is wrong with newer ones, by tag.
    """

    saved: Saved | None
    damaged: dict[str, str]


def complete(folder: Path) -> list[Saved]:
    """Checkpoints with a readable marker, the newest first; other folders are left out."""
    finished = []
    for marker in folder.glob(f"*/{COMPLETE}"):
        try:
            record = json.loads(marker.read_text(encoding="utf-8"))
            finished.append(Saved(marker.parent.name, int(record["step"]), record))
        except (ValueError, KeyError, TypeError):
            continue
    return sorted(finished, key=lambda saved: saved.step, reverse=True)


def look(folder: Path) -> Found:
    """The checkpoint that ``latest`` names if it is whole, else the newest that is; and what is damaged."""
    candidates = complete(folder)
    latest = folder / LATEST
    named = latest.read_text(encoding="utf-8", errors="replace").strip() if latest.is_file() else ""
    candidates.sort(key=lambda saved: saved.tag != named)  # stable: the named one before the others
    damaged = _without_marker(folder)
    for saved in candidates:
        reason = damage(folder, saved)
        if reason is None:
            return Found(saved, damaged)
        damaged[saved.tag] = reason
    return Found(None, damaged)


def _without_marker(folder: Path) -> dict[str, str]:
    """Finished checkpoints of ours (they hold random states) whose marker is gone or cannot be read."""
    readable = {saved.tag for saved in complete(folder)}
    lost = {}
    for state in sorted(folder.glob("global_step*/random_0.pt")):
        checkpoint = state.parent
        if checkpoint.name not in readable and not (checkpoint / PARTIAL).exists():
            there = (checkpoint / COMPLETE).exists()
            lost[checkpoint.name] = f"{COMPLETE} {'cannot be read' if there else 'is missing'}"
    return lost


def damage(folder: Path, saved: Saved) -> str | None:
    """Say what is wrong with a checkpoint's files, the first thing found; None where they are as written."""
    for name, (size, known) in saved.record.get("files", {}).items():
        file = folder / saved.tag / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, expected {size}"
        if digest(file) != known:
            return f"{name} has other content than was written"
    return None


def to_resume(folder: Path) -> Saved | None:
    """The checkpoint that a run goes on from; None where there is nothing complete, or only upstream's own.

    Raises:
      UserError: there are checkpoints, but every one is damaged.
    """
    saved, damaged = look(folder)
    if saved is None and damaged:
        tag, reason = sorted(damaged.items(), key=lambda item: _step_of(item[0]))[-1]
        raise UserError(
            f"cannot resume from {folder / tag}: {reason}, and no other checkpoint there is whole; "
            "train anew with another --ckpt.path"
        )
    return saved


def set_aside(folder: Path, damaged: dict[str, str]) -> None:
    """Let damaged checkpoints count no more: they are neither loaded nor kept in the place of a whole one."""
    for tag in damaged:
        (folder / tag / COMPLETE).unlink(missing_ok=True)


def foreign(folder: Path) -> bool:
    """Whether the checkpoints there were written by upstream's own trainer, which has no markers."""
    if not (folder / LATEST).is_file() or any(folder.glob(f"*/{PARTIAL}")):
        return False
    return not complete(folder) and not _without_marker(folder)


def begin(folder: Path, tag: str) -> None:
    """Mark a checkpoint as being written; what an earlier one of that name left goes first."""
    target = folder / tag
    remove(folder, tag)
    target.mkdir(parents=True)
    (target / PARTIAL).touch()


def finish(folder: Path, tag: str, record: dict[str, Any], keep: int, most: float = float("inf")) -> None:
    """Mark a checkpoint as complete, name it in ``latest``, and delete older ones.

    Args:
      folder: of all checkpoints.
      tag: the checkpoint.
      record: what it remembers.
      keep: complete checkpoints that stay, at least this one.
      most: gigabytes that all of them may take, this one aside.
    """
    checkpoint = folder / tag
    files = {
        file.relative_to(checkpoint).as_posix(): (file.stat().st_size, digest(file))
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != PARTIAL
    }
    content = {"schema_version": SCHEMA_VERSION, "step": max(0, _step_of(tag)), **record, "files": files}
    write_text(checkpoint / COMPLETE, json.dumps(content, indent=2) + "\n")
    (checkpoint / PARTIAL).unlink(missing_ok=True)
    write_text(folder / LATEST, tag)
    others = [s for s in complete(folder) if _STEP.fullmatch(s.tag) and s.tag != tag]
    total = _size(checkpoint)
    for number, saved in enumerate(others, 1):
        total += _size(folder / saved.tag)
        if number >= max(1, keep) or total > most * _GIGABYTE:
            remove(folder, saved.tag)


def _step_of(tag: str) -> int:
    match = _STEP.fullmatch(tag)
    return int(match[1]) if match else -1


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def remove(folder: Path, tag: str) -> None:
    """Delete a checkpoint, and the model that was saved beside it in plain form."""
    (folder / tag / COMPLETE).unlink(missing_ok=True)
    for name in (tag, f"{tag}_hf", f"{tag}_universal"):
        shutil.rmtree(folder / name, ignore_errors=True)


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
