"""A training that is told to end: it finishes its step, writes a last checkpoint and says how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sparsepo_plugin.errors import RunFailedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(RunFailedError):
    """A signal ended the training; the exit code is the shell's own for it.

    Args:
      number: of the signal.
      message: what was kept and how to go on.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Stop:
    """Whether a signal has asked for the end.

    Attributes:
      number: of the signal; 0 while there was none.
    """

    number = 0

    def hear(self, number: int, _: FrameType | None) -> None:
        """Note the signal; a second one ends the process at once, as if nobody listened."""
        self.number = number
        for each in _SIGNALS:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)


@contextmanager
def listening() -> Iterator[Stop]:
    """Note the signals TERM and INT while the context lasts; they arrive in the main thread only."""
    stop, before = Stop(), dict[signal.Signals, Any]()
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop.hear) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
