"""Where results go: asked before anything is measured, and held by one run at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eval_harness.errors import UserError
from eval_harness.files.writing import nearest

_LOCK = ".eval-harness.lock"


def check_folder(folder: Path, option: str) -> None:
    """Raise UserError unless the folder can be written to, or made; `option` is what named it."""
    try:
        probe = nearest(folder)
        good = probe.is_dir() and os.access(probe, os.W_OK | os.X_OK)
    except OSError as error:
        raise UserError(f"{option}: no such place", got=f"{folder}: {error.strerror}") from error
    if not good:
        what = "cannot be written" if probe.is_dir() else "is no folder"
        raise UserError(
            f"{option}: {probe} {what}", got=folder, expected="a folder, or the name of a new one"
        )


def check_file(path: Path, option: str) -> None:
    """Raise UserError unless the file can be written, or replaced; `option` is what named it."""
    if path.is_dir():
        raise UserError(f"{option} is a folder", got=path, expected="the name of a file")
    check_folder(path.parent, option)


@contextmanager
def held(folder: Path, option: str = "--out") -> Iterator[None]:
    """Hold a folder, which is made, for one run; the kernel gives it back however the run ends.

    `option` is what named it.

    Of several processes of one run (`accelerate launch`) the first holds it for all. A folder that was made
    for it and in which nothing was written does not stay.

    Raises:
      UserError: another run holds it, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    if os.environ.get("RANK", "0") != "0":
        yield
        return
    lock, made = FileLock(folder / _LOCK), not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            "another run is writing there",
            got=folder,
            expected="one run per folder",
            remedy=f"wait for it, or choose another {option}",
        ) from error
    except OSError as error:
        raise UserError(f"{option} cannot be written", got=f"{folder}: {error.strerror}") from error
    try:
        yield
    finally:
        # While it is held: whoever opened the file before finds it gone, and makes a new one.
        (folder / _LOCK).unlink(missing_ok=True)
        lock.release()
        if made:
            with suppress(OSError):  # something was written, as a rule
                folder.rmdir()
