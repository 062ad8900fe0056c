"""Turn errors that users can mend into one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from sparsepo_plugin.errors import UserError


def guarded(function: Callable[[], object]) -> int:
    """Run a command.

    Returns:
      0, or the error's exit code; its message is printed once, by the first process, without traceback.
    """
    try:
        function()
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0
