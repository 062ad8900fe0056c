"""Turn errors that users can mend into one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from tqdm import tqdm

from sparsepo_plugin.errors import UserError


def guarded(function: Callable[[], object]) -> int:
    """Run a command.

    Returns:
      0, or the error's exit code; its message is printed once, by the first process, without traceback.
    """
    try:
        function()
    except UserError as error:
        _end_progress_bars()
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _end_progress_bars() -> None:
    """Close bars that the error left open, so that its message gets a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
