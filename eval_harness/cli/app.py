"""eval-harness run | compare | gate | report | validate | ls | identity | agreement | scorer-agreement.

Exit codes: 0 done or kept, 1 regressed, 2 bad or missing input (one line), 3 undecided.
"""

import argparse
import logging
import os
import sys
import traceback
from typing import Any

from eval_harness.cli import gate_commands, judge_commands, run_commands, scorer_commands
from eval_harness.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """One line instead of argparse's usage text."""
        raise UserError(message, remedy=f"{self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; every command names the function that it calls."""
    parser = _Parser(prog="eval-harness", description=__doc__, epilog=run_commands.EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for module in (run_commands, gate_commands, judge_commands, scorer_commands):
        module.add_parsers(commands)
    return parser


def dispatch(argv: list[str] | None) -> int:
    """Run one command and return its exit code; mistakes are raised as UserError."""
    args = build_parser().parse_args(argv)
    code: int = args.call(args)
    return code


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    logging.basicConfig(level=os.environ.get("EVAL_HARNESS_LOG", "ERROR"))
    try:
        return dispatch(argv)
    except UserError as error:
        print(f"eval-harness: {error}", file=sys.stderr)
        return 2
    except Exception:
        # A fault of ours: Python's own exit code for it, 1, would read as REGRESSED.
        traceback.print_exc()
        return 2
