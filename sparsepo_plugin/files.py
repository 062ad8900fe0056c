"""Write files atomically; those that carry our mark never over a file that does not carry it."""

from __future__ import annotations

import os
from pathlib import Path

from sparsepo_plugin.errors import UserError

# Every format that we mark has the mark near its beginning.
_HEAD = 8192


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: whoever reads it sees the old or the new content, never a part."""
    _replace(path, text.encode())


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write(path: Path, content: bytes, mark: bytes) -> None:
    """Write a file, or replace one that an earlier command of ours wrote.

    Args:
      path: file to write; its folder is made.
      content: the whole file.
      mark: bytes that ``content`` holds near its beginning and no file of anybody else's does.

    Raises:
      UserError: the path is a folder or somebody else's file, or cannot be written.
    """
    check(path, mark)
    try:
        _replace(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def check(path: Path, mark: bytes) -> None:
    """Refuse a path that ``write`` would refuse, before the work of making its content.

    Raises:
      UserError: the path is a folder, somebody else's file, or lies below a file.
    """
    if path.is_dir():
        raise UserError(f"{path}: got a folder, expected the name of a file to write")
    above = next((parent for parent in path.parents if parent.exists()), path.parent)
    if above.exists() and not above.is_dir():
        raise UserError(f"{path}: {above} is a file, expected a folder; choose another place")
    if not path.exists():
        return
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); choose another name") from None
    if mark not in head:
        raise UserError(
            f"{path}: got a file that sparsepo did not write, expected none or one of its own; "
            "move it away or choose another name"
        )
