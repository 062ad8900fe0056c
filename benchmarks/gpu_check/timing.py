"""Seconds and peak memory of work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def wait() -> None:
    """Until the device has done everything."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], rounds: int = 5, warm: int = 2) -> float:
    """Median seconds of a piece of work."""
    found = []
    for number in range(warm + rounds):
        wait()
        start = time.perf_counter()
        work()
        wait()
        if number >= warm:
            found.append(time.perf_counter() - start)
    return sorted(found)[len(found) // 2]


def peak_mib(work: Callable[[], Any]) -> float | None:
    """Peak of the allocator during a piece of work above its start, MiB; None without CUDA."""
    if not torch.cuda.is_available():
        work()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    wait()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
