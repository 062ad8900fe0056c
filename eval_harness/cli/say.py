"""Printing."""

import contextlib
import os
import sys

from eval_harness.files.texts import printable


class NoReaderError(Exception):
    """Nobody reads the list that is being printed (`| head -1`): its command can end."""


def say(text: str) -> None:
    """Print a result, escaping what a terminal would obey.

    A reader that has gone away changes no verdict and no exit code.
    """
    with contextlib.suppress(NoReaderError):
        show(text)


def show(text: str = "") -> None:
    """Print a line of a list, as `say`; without one, what argparse has printed.

    Raises:
      NoReaderError: the reader has gone away.
    """
    try:
        print(printable(text), end="\n" if text else "", flush=True)
    except OSError as error:
        _drop_output()
        if isinstance(error, BrokenPipeError):
            raise NoReaderError from error
        raise


def _drop_output() -> None:
    """Write nothing more: Python flushes once more when it exits.

    Source: the note on SIGPIPE in the signal module's page.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
