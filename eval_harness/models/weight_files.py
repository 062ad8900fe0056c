"""Which weight files of a folder a loader reads, whether each is whole, and what their headers say.

Source of the layout: transformers' `save_pretrained` (model.safetensors, or shards with an index) and peft's
(adapter_model.safetensors). Source of the precedence, safetensors before .bin and a file before an index:
transformers' `_get_resolved_checkpoint_files` and peft's `load_peft_weights`.
"""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.models.reference import read_json

MODEL, ADAPTER = "model", "adapter_model"
_SINGLES = {
    MODEL: ("model.safetensors", "pytorch_model.bin"),
    ADAPTER: ("adapter_model.safetensors", "adapter_model.bin"),
}
_CONFIG = {MODEL: "config.json", ADAPTER: "adapter_config.json"}
_REMEDY = "copy or save the checkpoint again"


def weight_files(folder: Path, stem: str = MODEL) -> list[Path]:
    """The files that transformers (or, for an adapter, peft) reads from the folder, each checked to be whole.

    Raises:
      UserError: none there, a shard missing, a truncated or unreadable file, or a folder that two loaders
        would read differently.
    """
    config = folder / _CONFIG[stem]
    if not config.is_file():
        what = "no such model" if stem == MODEL else "no such adapter"
        raise UserError(what, got=folder, expected=f"a folder with {config.name}", remedy="check the path")
    explicit = read_json(config).get("transformers_weights") if stem == MODEL else None
    _check_one_model(folder, stem)
    for name in [str(explicit)] if explicit else _SINGLES[stem]:
        single, index = folder / name, folder / f"{name}.index.json"
        if name.endswith(".index.json"):
            return [_whole(folder / shard) for shard in _shards(single)]
        # peft knows no index.
        shards = _shards(index) if stem == MODEL and index.is_file() else []
        if single.is_file():
            if shards and shards != [name]:
                raise _ambiguous(folder, f"{name}, and {index.name} that names {len(shards)} other files")
            return [_whole(single)]
        if shards:
            return [_whole(folder / shard) for shard in shards]
    raise UserError(
        "the model folder holds no weights",
        got=folder,
        expected=f"{stem}.safetensors or shards",
        remedy="save with save_pretrained, or copy the missing files",
    )


def _check_one_model(folder: Path, stem: str) -> None:
    """Refuse an adapter beside a whole model: transformers would load the adapter on top."""
    if not (folder / _CONFIG[ADAPTER]).is_file():
        return
    whole = any(
        (folder / f"{name}{end}").is_file() for name in _SINGLES[MODEL] for end in ("", ".index.json")
    )
    if whole or stem == MODEL:
        raise _ambiguous(folder, "an adapter_config.json beside a whole model")


def _ambiguous(folder: Path, got: str) -> UserError:
    return UserError(
        "which weights are meant is not clear",
        got=f"{folder.name} holds {got}",
        expected="the files of one model",
        remedy="remove what is not meant",
    )


def _shards(index: Path) -> list[str]:
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(v, str) for v in named.values()):
        raise UserError(
            "corrupt weights", got=f"{index.name} names no files", expected="a weight_map", remedy=_REMEDY
        )
    return sorted(set(named.values()))


def _whole(path: Path) -> Path:
    """Check that a weight file is complete: a safetensors header covers its file exactly, .bin is a zip."""
    if not path.is_file():
        raise UserError(
            "a weight file is missing", got=path.name, expected="all shards of the index", remedy=_REMEDY
        )
    if path.suffix != ".safetensors":
        if not zipfile.is_zipfile(path):
            raise UserError("corrupt weights", got=path.name, expected="a torch zip archive", remedy=_REMEDY)
        return path
    size, (header, start) = path.stat().st_size, read_header(path)
    end = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != size:
        raise UserError(
            "corrupt weights", got=f"{path.name}, {size} bytes", expected=f"{end} bytes", remedy=_REMEDY
        )
    return path


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """A safetensors file's header (tensor -> dtype, shape, data_offsets) and where its data begin, in bytes.

    Raises:
      UserError: no such header.
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        try:
            header = json.loads(handle.read(length)) if length + 8 <= size else None
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
            header = None
    if not isinstance(header, dict) or not all(
        isinstance(entry, dict) and "data_offsets" in entry
        for name, entry in header.items()
        if name != "__metadata__"
    ):
        raise UserError(
            "corrupt weights", got=f"{path.name}, unreadable header", expected="safetensors", remedy=_REMEDY
        )
    header.pop("__metadata__", None)
    return header, 8 + length
