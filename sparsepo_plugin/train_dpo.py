"""Stand-in for ``openrlhf.cli.train_dpo``: the same flags, plus ``--loss`` and the losses' options.

Starts under ``python -m``, ``torchrun -m`` and ``deepspeed --module``. Without ``--loss`` upstream's own loss
is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sparsepo_plugin.main import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code (2: bad input, 1: the run failed)."""
    from sparsepo_plugin.adapters.openrlhf.launch import run

    arguments = sys.argv[1:] if argv is None else argv
    return guarded(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
