"""Time and memory of steps, each row of the table in a process of its own, one of them running at a time.

Time: all rows stand ready, are fed the same step in turn, and a round gives a ratio per row. Memory: the peak
of the resident set during a step, above its size before the step, when weights and optimizer state are there
and gradients are not. For it glibc is told to give every freed block back at once, so that memory in use
counts.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from benchmarks.step.workloads import Step

# mallopt's names in glibc: trim threshold, mmap threshold, number of arenas.
M_TRIM, M_MMAP, M_ARENAS = -1, -3, -8
Run = Callable[[Step], float]


class Usage(NamedTuple):
    """A step's loss, seconds on the clock and of processors, and MiB at the peak above the start."""

    loss: float
    wall: float
    cpu: float
    peak: float


class Worker:
    """A process that holds one row.

    Args:
      make: builds the row; called in the process.
      threads: of torch.
      memory: give freed memory back at once.
    """

    def __init__(self, make: Callable[[], Run], *, threads: int, memory: bool) -> None:
        context = multiprocessing.get_context("fork")
        self._mine, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, theirs, threads, memory), daemon=True)
        self._process.start()
        theirs.close()
        self._receive()

    def run(self, step: Step) -> Usage:
        """Run a step and wait for it."""
        self._mine.send(step)
        return Usage(*self._receive())

    def close(self) -> None:
        """End the process."""
        self._mine.send(None)
        self._process.join()

    def _receive(self) -> tuple[float, ...]:
        try:
            answer = self._mine.recv()
        except EOFError:
            self._process.join()
            raise SystemExit(f"a row's process ended with code {self._process.exitcode}") from None
        return tuple(answer)


def _serve(make: Callable[[], Run], pipe: Connection, threads: int, memory: bool) -> None:
    import torch

    # Steps travel as bytes; shared memory would be counted as the receiver's own.
    torch.multiprocessing.set_sharing_strategy("file_system")
    if memory:
        libc = ctypes.CDLL("libc.so.6")
        for name, value in ((M_MMAP, 65536), (M_TRIM, 0), (M_ARENAS, 1)):
            if libc.mallopt(name, value) != 1:
                raise RuntimeError("mallopt failed: this benchmark measures memory with glibc only")
    torch.set_num_threads(threads)
    run = make()
    pipe.send(())
    while (step := pipe.recv()) is not None:
        pipe.send(tuple(_measured(run, step)))


def _measured(run: Run, step: Step) -> Usage:
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM, the peak, to the present size
    wall, cpu = time.perf_counter(), time.process_time()
    loss = run(step)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Usage(loss, wall, cpu, resident("VmHWM") - before)


def resident(field: str) -> float:
    """A field of /proc/self/status, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/{os.getpid()}/status: this benchmark needs Linux")
