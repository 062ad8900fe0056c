"""Says on standard error how long scoring will still take, as soon as that can be told."""

import sys
import time

_LONG = 30.0  # seconds left that are worth a line
_FIRST = 3.0  # seconds of work before the first estimate
_EVERY = 60.0


class Progress:
    """Counts work done, in any unit, and estimates the rest from the speed so far."""

    def __init__(self, what: str, total: float) -> None:
        """Name the work and its size."""
        self._what, self._total, self._done = what, max(total, 1e-9), 0.0
        self._start = time.monotonic()
        self._next = self._start + _FIRST

    def add(self, amount: float) -> None:
        """Count finished work; print an estimate when one is due."""
        self._done += amount
        now = time.monotonic()
        if now < self._next:
            return
        left = (now - self._start) * (self._total - self._done) / self._done
        if left >= _LONG:
            share = self._done / self._total
            print(f"{self._what}: {share:.0%} done, about {duration(left)} left", file=sys.stderr, flush=True)
        self._next = now + _EVERY


def duration(seconds: float) -> str:
    """Seconds in the unit a person would use."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
