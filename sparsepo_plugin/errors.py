"""Errors that a user can mend: one line, no traceback, exit code 2."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable
from typing import TextIO

from tqdm import tqdm

EXIT_BAD_INPUT = 2
EXIT_FAILED = 1
# What a shell reports of a program that SIGPIPE ended.
EXIT_CLOSED_PIPE = 128 + signal.SIGPIPE
# A disk that takes nothing any more, after everything that could be checked before the work.
_NOT_WRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


class UserError(Exception):
    """A mistake in the input. The message says what, got, expected and remedy in one line."""

    exit_code = EXIT_BAD_INPUT


class RunFailedError(UserError):
    """The input was accepted, but the run failed, for example by a loss that is not finite."""

    exit_code = EXIT_FAILED


def unknown(kind: str, got: str, available: Iterable[str], see: str = "--help") -> UserError:
    """Build the error for an unknown name, with near matches first.

    Args:
      kind: what is named, such as "loss".
      got: the name as given.
      available: every name that would have been accepted.
      see: the command that lists them, where they are too many for a line.
    """
    names = sorted(available)
    near = difflib.get_close_matches(got, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    listed = ", ".join(names) if len(names) <= 24 else f"{len(names)} names, see {see}"
    return UserError(f"unknown {kind} {got!r}: {hint}available: {listed}")


def guarded(function: Callable[[], object]) -> int:
    """Run a command.

    Returns:
      0, or the error's exit code; its message is printed without traceback. 141, and nothing printed, where
      the reader of the output has gone (`| head -1`).
    """
    try:
        return _answered(function)
    except BrokenPipeError:
        # A pipe or socket of the run's own is a fault to see.
        if not _abandoned():
            raise
        return EXIT_CLOSED_PIPE


def _answered(function: Callable[[], object]) -> int:
    try:
        _flushed(function)
    except UserError as error:
        report(error)
        return error.exit_code
    except KeyboardInterrupt:
        report(UserError("interrupted"))
        return 128 + signal.SIGINT
    except OSError as error:
        if error.errno not in _NOT_WRITTEN:
            raise
        if error.filename is None:
            _drop(sys.stdout)
        report(UserError(f"{error.filename or 'output'}: {error.strerror}"))
        return EXIT_FAILED
    return 0


def _flushed(function: Callable[[], object]) -> None:
    """Call; what it printed is written here, since an error at the interpreter's exit is a traceback."""
    try:
        function()
    except SystemExit:  # --help and --version
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _abandoned() -> bool:
    """Whether the output's reader has gone; what is still to be written to it is dropped."""
    gone = [stream for stream in (sys.stdout, sys.stderr) if _no_reader(stream)]
    for stream in gone:
        _drop(stream)
    return bool(gone)


def _no_reader(stream: TextIO) -> bool:
    try:
        watch = select.poll()
        watch.register(stream.fileno(), 0)
    except (OSError, ValueError):  # a captured stream has no number
        return False
    return any(state & select.POLLERR for _, state in watch.poll(0))


def _drop(stream: TextIO) -> None:
    """Python flushes once more when it exits; source: the note on SIGPIPE in the signal module's page."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def report(error: UserError) -> None:
    """Print an error as one line, once, by the first process."""
    # Bars that the error left open are closed, so that its message gets a line of its own.
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {error}", file=sys.stderr, flush=True)
