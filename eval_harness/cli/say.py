"""Printing."""

import os
import sys


def say(text: str) -> None:
    """Print; a reader that has gone away (`| head`) changes no verdict and no exit code."""
    try:
        print(text.encode("utf-8", "backslashreplace").decode("utf-8"), flush=True)
    except BrokenPipeError:
        # Python flushes once more when it exits; source: the note on SIGPIPE in the signal module's page.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
