"""Every file appears whole or not at all."""

import errno
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from eval_harness.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write atomically: a temporary file in the same folder, flushed to disk, then renamed.

    Raises:
      UserError: the disk is full, the place cannot be written; nothing is left behind.
    """
    write_texts({path: text})


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write several files as `write_text` does one: no name changes before all of them lie on the disk."""
    written: dict[Path, Path] = {}
    try:
        for path, text in texts.items():
            _write_beside(path, text, written)
        for path in list(written):
            try:
                os.replace(written[path], path)
                del written[path]
            except OSError as error:
                raise _unwritable(path, error) from error
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)


def _write_beside(path: Path, text: str, written: dict[Path, Path]) -> None:
    """Write a temporary file beside `path`, noted in `written` before it is there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp, whose files are for their owner alone: a result is as readable as any of the user's.
        written[path] = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with written[path].open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                "no disk space",
                got=f"too little of it at {path.parent}",
                expected=f"{len(text)} bytes",
                remedy="free space or choose another --out and --cache",
            ) from error
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written", got=error.strerror, remedy="choose another folder")


def nearest(path: Path) -> Path:
    """The path, or the first place above it where something is; a dangling link is something."""
    while not path.exists() and not path.is_symlink():
        path = path.parent
    return path


def check_space(folder: Path, needed: int) -> None:
    """Raise UserError unless the disk that holds `folder` has `needed` bytes free."""
    probe = nearest(folder.resolve())
    free = shutil.disk_usage(probe).free
    if free < needed:
        raise UserError(
            "no disk space",
            got=f"{free} bytes free at {probe}",
            expected=f"at least {needed} bytes",
            remedy="free space or choose another --out and --cache",
        )
