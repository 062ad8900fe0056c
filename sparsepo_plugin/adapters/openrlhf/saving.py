"""A model on its way to the disk: a place that takes it, and an adapter folder that opens anywhere."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from sparsepo_plugin import files
from sparsepo_plugin.errors import UserError

_SLACK = 1.05  # tokenizer and configuration


def size_of(model: nn.Module, *, adapter: bool) -> int:
    """Bytes that saving a model takes: all parameters, or those of an adapter."""
    kept = [p for p in model.parameters() if p.requires_grad or not adapter]
    # ZeRO-3 leaves an empty tensor in the place of a parameter and its whole size beside it.
    return int(_SLACK * sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in kept))


def obstacle(folder: Path, size: int) -> str | None:
    """Why ``size`` bytes cannot be written to a folder; None where they can."""
    try:
        files.check_folder(folder, str(folder))
    except UserError as error:
        return str(error)
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    return None if free >= size else f"{folder}: got {free / 1e9:.3g} GB free, expected {size / 1e9:.3g} GB"


def elsewhere(size: int) -> Path | None:
    """A new folder that takes ``size`` bytes, in the working, the home or the temporary folder; or None."""
    for root in (Path.cwd(), Path.home(), Path(tempfile.gettempdir())):
        if obstacle(root, size) is None:
            return Path(tempfile.mkdtemp(prefix="sparsepo-rescued-", dir=root))
    return None


def complete_adapter(folder: Path) -> None:
    """Let transformers open a folder with an adapter from anywhere; nothing where there is no adapter.

    Upstream writes the base's config.json beside it, for which transformers takes the folder for a whole
    model without weights. A relative path of the base would be looked for where the reader stands. ZeRO-3
    leaves torch's own format, which not every reader trusts.
    """
    path = folder / "adapter_config.json"
    if not path.is_file():
        return
    (folder / "config.json").unlink(missing_ok=True)
    content = json.loads(path.read_text(encoding="utf-8"))
    base = content.get("base_model_name_or_path") or ""
    if base and Path(base).is_dir():
        content["base_model_name_or_path"] = str(Path(base).resolve())
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    pickled = folder / "adapter_model.bin"
    if pickled.is_file():
        state = torch.load(pickled, map_location="cpu", weights_only=True)
        save_file({k: v.contiguous() for k, v in state.items()}, folder / "adapter_model.safetensors")
        pickled.unlink()
