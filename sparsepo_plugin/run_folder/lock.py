"""One run per folder: a lock that the kernel gives back when the run ends, however it ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sparsepo_plugin.errors import UserError

LOCK = ".sparsepo.lock"


@contextmanager
def held(folders: Iterable[Path]) -> Iterator[None]:
    """Hold the locks of some folders, which are made; a lock file goes with its lock.

    Raises:
      UserError: another run holds one of them, or it cannot be written.
    """
    with ExitStack() as stack:
        for folder in sorted({folder.resolve() for folder in folders}):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{folder} cannot be made ({error.strerror}); choose another") from None
            stack.callback(_give_back, folder, _acquired(folder))
        yield


def check_free(folder: Path) -> None:
    """Refuse a folder that another run is writing to; nothing is left there.

    Raises:
      UserError: there is such a run.
    """
    if (folder / LOCK).exists():
        _acquired(folder).release()


def _acquired(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder}: another run is writing there; wait for it, stop it, or choose another folder"
        ) from None
    except OSError as error:
        raise UserError(f"{folder} cannot be locked ({error.strerror}); choose another folder") from None
    return lock


def _give_back(folder: Path, lock: FileLock) -> None:
    # While it is held: whoever opened the file before finds it gone, and makes a new one.
    (folder / LOCK).unlink(missing_ok=True)
    lock.release()
