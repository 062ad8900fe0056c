"""The command line: eval-harness run | compare | gate | report | validate | ls | meta."""

from eval_harness.cli.app import main

__all__ = ["main"]
