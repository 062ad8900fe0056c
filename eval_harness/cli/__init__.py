"""The command line: a module per family of commands, and the parser that joins them."""

from eval_harness.cli.app import main

__all__ = ["main"]
