"""Files and folders that we write: asked before the work, marked as ours, atomic, and never lost."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from sparsepo_plugin.errors import UserError

# Every format that we mark has the mark near its beginning.
_HEAD = 8192
# What a folder is asked to take before the work: a full disk gives a file a name, but no content.
_PROBE = 65536
_BLOCK, _BLOCKS = 1 << 20, 64


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: whoever reads it sees the old or the new content, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """``write_text`` for bytes."""
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
      UserError: the path is a folder or somebody else's file, or cannot be written; then the content is in
        a file of the system's folder for temporary files, which the message names.
    """
    check(path, mark)
    try:
        write_bytes(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); {_saved(path, content)}") from None


def _saved(path: Path, content: bytes) -> str:
    """Keep what was computed in another place; says where."""
    try:
        with tempfile.NamedTemporaryFile(prefix=f"{path.stem}-", suffix=path.suffix, delete=False) as kept:
            kept.write(content)
    except OSError:
        return "choose another place"
    return f"it is in {kept.name} instead"


def check(path: Path, mark: bytes) -> None:
    """Refuse a path that ``write`` would refuse, before the work of making its content.

    Raises:
      UserError: the path is a folder, somebody else's file, or lies where nothing can be written.
    """
    if path.is_dir():
        raise UserError(f"{path}: got a folder, expected the name of a file to write")
    check_folder(path.parent, str(path))
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


def check_folder(folder: Path, named: str) -> None:
    """Refuse a folder that cannot be written, or made; nothing is left there.

    Args:
      folder: the folder, which may not exist yet.
      named: what asks for it, for the message, such as "--out runs/a".

    Raises:
      UserError: a file is in the way, or nothing can be written there, be it for want of room.
    """
    try:
        existing = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
        if not existing.is_dir():
            raise UserError(f"{named}: {existing} is a file, expected a folder that can be written")
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(_PROBE))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise UserError(
            f"{named}: {folder} cannot be written ({error.strerror}); choose another folder"
        ) from None


def claim(folder: Path, marker: str, named: str) -> None:
    """Take a folder for a command that fills it; one that the command filled before is taken again.

    Args:
      folder: made where it does not exist.
      marker: name of the file that says whose the folder is.
      named: as in ``check_folder``.

    Raises:
      UserError: it holds other files, which the command might replace, or it cannot be written.
    """
    check_folder(folder, named)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).is_file():
        raise UserError(
            f"{named}: got a folder with other files, expected a new one, an empty one, or one that this "
            "command made; choose another"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / marker).touch()


def digest(path: Path) -> str:
    """Digest of a file: of all of it up to 64 MiB, beyond of 64 blocks of 1 MiB spread over it.

    It tells a cut, emptied or exchanged file from the one that was written, at the price of 64 MiB.
    """
    size = path.stat().st_size
    whole = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= _BLOCKS * _BLOCK:
            whole.update(file.read())
        else:
            for number in range(_BLOCKS):
                file.seek((size - _BLOCK) * number // (_BLOCKS - 1))
                whole.update(file.read(_BLOCK))
    return whole.hexdigest()[:32]
