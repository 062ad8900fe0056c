"""The mask module beside a plain Hugging Face folder: safetensors for weights, JSON for what built it."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparsepo_plugin import __version__, registry
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import write_text
from sparsepo_plugin.options import LossOptions
from sparsepo_plugin.types import ReferenceShape

WEIGHTS = "sparsepo_masks.safetensors"
RECORD = "sparsepo_masks.json"
SCHEMA_VERSION = 1
# PEFT's model card, which has the name of a person's own notes.
_CARD, _PEFT = "README.md", b"library_name: peft"
_ADAPTER = ("adapter_config.json", "adapter_model.*")
# Every file that transformers, PEFT and we may write for a model.
MODEL_FILES = (
    *("config.json", "generation_config.json", "model*.safetensors", "model*.safetensors.index.json"),
    *("pytorch_model*.bin", "pytorch_model*.bin.index.json", *_ADAPTER),
    *("tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.*"),
    *("merges.txt", "chat_template.*", WEIGHTS, RECORD),
)


class SavedMasks(NamedTuple):
    """A mask module read back from a checkpoint folder."""

    module: nn.Module
    loss: registry.Loss
    options: LossOptions


def publish(staging: Path, folder: Path) -> None:
    """Move a finished staging folder's files into ``folder``; config.json, which makes it loadable, last.

    What an earlier model left there goes: an adapter beside a whole model would be applied to it, a shard or
    a mask module taken for the new one's.
    """
    new = sorted(staging.iterdir(), key=lambda path: path.name == "config.json")
    remove_model(folder, keep={path.name for path in new})
    for path in new:
        os.replace(path, folder / path.name)
    staging.rmdir()


def remove_model(folder: Path, keep: Collection[str] = ()) -> None:
    """Delete the files of a model in a folder: weights, configuration, tokenizer, adapter, mask module."""
    for pattern in MODEL_FILES:
        for path in folder.glob(pattern):
            if path.is_file() and path.name not in keep:
                path.unlink()
    card = folder / _CARD
    if _CARD not in keep and card.is_file() and _PEFT in card.read_bytes():
        card.unlink()


def remove_adapter(folder: Path) -> None:
    """Delete the adapter that an earlier run left: transformers would apply it to a whole model beside it."""
    for pattern in _ADAPTER:
        for path in folder.glob(pattern):
            path.unlink()


def save_masks(folder: Path, state: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write the mask module's weights and record beside a checkpoint, atomically.

    Args:
      folder: the checkpoint folder.
      state: the module's state dict.
      record: loss, options and reference_shape, as Objective.record gives them.
    """
    part = folder / f".{WEIGHTS}.{os.getpid()}.part"
    save_file({name: value.contiguous() for name, value in state.items()}, part)
    os.replace(part, folder / WEIGHTS)
    content = {"schema_version": SCHEMA_VERSION, "sparsepo_version": __version__, **record}
    write_text(folder / RECORD, json.dumps(content, indent=2) + "\n")


def remove_masks(folder: Path) -> None:
    """Remove the mask module of an earlier run: a policy without one would be taken for its own."""
    for name in (WEIGHTS, RECORD):
        (folder / name).unlink(missing_ok=True)


def load_masks(folder: str | Path) -> SavedMasks:
    """Read the mask module of a checkpoint folder.

    Raises:
      UserError: no mask module there, a damaged one, or one of another schema.
    """
    folder = Path(folder)
    loss, options, shape = _read_record(folder)
    module = options.build_masks(shape, seed=0)
    try:
        state = load_file(folder / WEIGHTS)
        module.to(next(iter(state.values())).dtype).load_state_dict(state)
    except (OSError, SafetensorError, StopIteration, RuntimeError):
        raise _damaged(folder / WEIGHTS) from None
    return SavedMasks(module.eval(), loss, options)


def initial_masks(folder: str | Path, seed: int) -> nn.Module:
    """Build the mask module of a checkpoint folder as it was before training with ``seed``.

    Raises:
      UserError: as load_masks.
    """
    _, options, shape = _read_record(Path(folder))
    return options.build_masks(shape, seed).eval()


def read_record(folder: Path) -> dict[str, Any] | None:
    """What ``save_masks`` wrote of loss, options and reference; None where the folder has no mask module.

    Raises:
      UserError: it is damaged, or of another schema.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = record["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise _damaged(path) from None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: got schema_version {version}, expected {SCHEMA_VERSION}; use the sparsepo version that "
            f"wrote it ({record.get('sparsepo_version')})"
        )
    return record


def _read_record(folder: Path) -> tuple[registry.Loss, LossOptions, ReferenceShape]:
    record = read_record(folder)
    if record is None:
        raise UserError(f"no mask module in {folder}: expected {RECORD}; was it trained with learned masks?")
    try:
        loss = registry.get(record["loss"])
        return loss, loss.options(**record["options"]), ReferenceShape(**record["reference_shape"])
    except (KeyError, TypeError):
        raise _damaged(folder / RECORD) from None


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path}: cannot be read as part of a mask module; is it cut off? take another checkpoint, or write "
        f"this one again"
    )
