"""Every file appears whole or not at all."""

import errno
import os
import secrets
import shutil
from pathlib import Path

from eval_harness.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write atomically: a temporary file in the same folder, flushed to disk, then renamed.

    Raises:
      UserError: the disk is full; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp, whose files are for their owner alone: a result is as readable as any file of the user's.
    name = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with name.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException as error:
        name.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise UserError(
                "no disk space",
                got=f"0 bytes free at {path.parent}",
                expected=f"{len(text)} bytes",
                remedy="free space or choose another --out and --cache",
            ) from error
        raise


def check_space(folder: Path, needed: int) -> None:
    """Raise UserError unless the disk that holds `folder` has `needed` bytes free."""
    probe = folder.resolve()
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free
    if free < needed:
        raise UserError(
            "no disk space",
            got=f"{free} bytes free at {probe}",
            expected=f"at least {needed} bytes",
            remedy="free space or choose another --out and --cache",
        )
