"""One training as a process that does not outlive the sweep, and one sweep per folder."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sparsepo_plugin.errors import UserError

_PR_SET_PDEATHSIG = 1
# A training that was killed with its sweep needs a moment to be gone.
_PATIENCE = 10.0


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the folder's lock and give its file, which trainings inherit: it stays locked while one lives.

    Raises:
      UserError: another sweep, or a training it left behind, holds the lock.
    """
    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(file, folder)
        yield file
    finally:
        os.close(file)


def _lock(file: int, folder: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise UserError(
                    f"{folder}: another sweep is at work there, or a training it left behind; "
                    "wait for it, or stop it"
                ) from None
            time.sleep(0.2)


def train(argv: list[str], log: Path, lock: int) -> int:
    """Run the trainer with its output in a log; returns the exit code."""
    command = [sys.executable, "-m", "sparsepo_plugin.train_dpo", *argv]
    with open(log, "wb") as file:
        return subprocess.run(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
            pass_fds=(lock,),
            preexec_fn=_end_with_us,
        ).returncode


def _end_with_us() -> None:
    """Have Linux kill this process when its parent dies, be it by kill -9; elsewhere the lock must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
