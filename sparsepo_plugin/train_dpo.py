"""Stand-in for ``openrlhf.cli.train_dpo``: the same flags, plus ``--loss`` and the losses' options.

Starts under ``python -m``, ``torchrun -m`` and ``deepspeed --module``, and with ``--ray`` as Ray actors.
Without ``--loss`` upstream's own loss is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sparsepo_plugin.config import spelt_out
from sparsepo_plugin.errors import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Train, with ``--ray`` as Ray actors; returns the exit code (2: bad input, 1: the run failed)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(arguments))


def _run(arguments: list[str]) -> None:
    arguments = spelt_out(arguments, {"--ray": None})
    if "--ray" in arguments:
        from sparsepo_plugin.adapters.openrlhf import ray_launch

        ray_launch.run([word for word in arguments if word != "--ray"])
        return
    from sparsepo_plugin.adapters.openrlhf.launch import run

    run(arguments)


if __name__ == "__main__":
    sys.exit(main())
