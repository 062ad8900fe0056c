"""Printing."""

import os
import sys

from eval_harness.files.texts import printable


def say(text: str) -> None:
    """Print, escaping what a terminal would obey.

    A reader that has gone away (`| head`) changes no verdict and no exit code.
    """
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        # Python flushes once more when it exits; source: the note on SIGPIPE in the signal module's page.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
