"""The processes of one training on this machine: they start, end and are told to end together."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

_HOST = "127.0.0.1"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
# The others of a process that failed fail too, or wait for it for ever.
_PATIENCE = 20.0


def train(argv: Sequence[str], processes: int) -> int:
    """Train with several processes; a signal to this one is passed on, a second one kills them.

    Args:
      argv: command line of ``sparsepo_plugin.train_dpo``.
      processes: their number.

    Returns:
      0, or the exit code of the first process that failed (of one killed by signal n, 128 + n).
    """
    # The store is ours: nobody can take its port while the processes are still importing.
    store = TCPStore(_HOST, 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=30))
    command = [sys.executable, "-m", "sparsepo_plugin.train_dpo", *argv]
    workers: list[subprocess.Popen[bytes]] = []
    with _passed_on(workers):
        try:
            for rank in range(processes):
                workers.append(
                    subprocess.Popen(
                        command,
                        env=_environment(rank, processes, store.port),
                        start_new_session=True,  # a terminal's signal reaches them through us, once
                        preexec_fn=_end_with_us,
                    )
                )
            return _wait(workers)
        finally:
            for worker in workers:
                _kill(worker)


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torch.distributed reads; as torchrun sets it, whose agent also keeps the store."""
    values = {
        **{"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes},
        **{"MASTER_ADDR": _HOST, "MASTER_PORT": port},
        **{"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0},
    }
    return {"OMP_NUM_THREADS": "1", **os.environ, **{name: str(value) for name, value in values.items()}}


def _wait(workers: list[subprocess.Popen[bytes]]) -> int:
    failed, until = 0, float("inf")
    while any(worker.poll() is None for worker in workers):
        if not failed and (failed := _failure(workers)):
            until = time.monotonic() + _PATIENCE
        if time.monotonic() > until:
            break
        time.sleep(0.1)
    return failed or _failure(workers)


def _failure(workers: list[subprocess.Popen[bytes]]) -> int:
    codes = [worker.returncode for worker in workers if worker.returncode]
    return 0 if not codes else codes[0] if codes[0] > 0 else 128 - codes[0]


@contextmanager
def _passed_on(workers: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Pass a signal on to the processes, which end in order; after a second one kill them."""
    heard: list[int] = []

    def hear(number: int, _: Any) -> None:
        heard.append(number)
        for worker in workers:
            if len(heard) > 1:
                _kill(worker)
            elif worker.poll() is None:
                worker.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    before = {number: signal.signal(number, hear) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill(worker: subprocess.Popen[bytes]) -> None:
    """Kill a process with those that it started."""
    if worker.poll() is None:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def _end_with_us() -> None:
    """Have Linux tell a process to end when this one dies, be it by kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
