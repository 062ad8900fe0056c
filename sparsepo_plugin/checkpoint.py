"""The mask module beside a plain Hugging Face folder: safetensors for weights, JSON for what built it."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

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
      UserError: no mask module there, or one of another schema.
    """
    folder = Path(folder)
    loss, options, shape = _read_record(folder)
    module = options.build_masks(shape, seed=0)
    state = load_file(folder / WEIGHTS)
    module.to(next(iter(state.values())).dtype).load_state_dict(state)
    return SavedMasks(module.eval(), loss, options)


def initial_masks(folder: str | Path, seed: int) -> nn.Module:
    """Build the mask module of a checkpoint folder as it was before training with ``seed``.

    Raises:
      UserError: as load_masks.
    """
    _, options, shape = _read_record(Path(folder))
    return options.build_masks(shape, seed).eval()


def _read_record(folder: Path) -> tuple[registry.Loss, LossOptions, ReferenceShape]:
    if not (folder / RECORD).is_file():
        raise UserError(f"no mask module in {folder}: expected {RECORD}; was it trained with learned masks?")
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    if record["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"{folder / RECORD}: got schema_version {record['schema_version']}, expected "
            f"{SCHEMA_VERSION}; use the sparsepo version that wrote it ({record['sparsepo_version']})"
        )
    loss = registry.get(record["loss"])
    return loss, loss.options(**record["options"]), ReferenceShape(**record["reference_shape"])
