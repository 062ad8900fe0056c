"""eval-harness run | compare | gate | report | validate | ls | identity | agreement | scorer-agreement.

Exit codes: 0 done or kept, 1 regressed, 2 bad or missing input (one line), 3 undecided.
"""

import argparse
import logging
import os
import signal
import sqlite3
import sys
import traceback
import warnings
from importlib.metadata import version
from typing import Any

from eval_harness.cli import gate_commands, judge_commands, run_commands, scorer_commands
from eval_harness.cli.say import NoReaderError, show
from eval_harness.errors import UserError, near, refused
from eval_harness.files.texts import printable

# Commands of sparsepo, which people look for here as well.
_TRAINING = ("train", "export", "view", "plot", "sweep", "demo", "weigh")


class _Parser(argparse.ArgumentParser):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_argument("--version", action="version", version=f"eval-harness {version('sparsepo')}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Name an unknown flag first: with it, a required one is mostly misspelt, not missing."""
        flags = self._option_string_actions
        for word in args or () if flags.keys() - {"-h", "--help", "--version"} else ():
            name = word.split("=")[0]
            if name.startswith("--") and not any(flag.startswith(name) for flag in flags):
                raise UserError(
                    f"unknown flag {name}", expected=near(name, flags), remedy=f"{self.prog} --help"
                )
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            there = f"sparsepo {value}" if value in _TRAINING else near(value, action.choices)
            raise UserError(f"unknown command {value}", expected=there, remedy=f"{self.prog} --help")
        super()._check_value(action, value)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print; argparse's own hides a reader that has gone or a disk that is full."""
        (file or sys.stderr).write(message)

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


def _flushed(argv: list[str] | None) -> int:
    """Run a command; --help and --version are written here, before the interpreter's exit fails to."""
    try:
        return dispatch(argv)
    except SystemExit:
        show()
        raise


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    # torch says this on every start where OpenRLHF's requirement pynvml is installed; nobody can act on it.
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated", category=FutureWarning)
    logging.basicConfig(level=os.environ.get("EVAL_HARNESS_LOG", "ERROR"))
    try:
        return _flushed(argv)
    except NoReaderError:
        return 128 + signal.SIGPIPE  # what a shell reports of a program that the signal ended
    except (UserError, OSError, MemoryError, sqlite3.Error) as error:
        logging.debug("", exc_info=True)
        line = error if isinstance(error, UserError) else refused(error)
        print(f"eval-harness: {printable(str(line))}", file=sys.stderr)
        return 2
    except Exception:
        # A fault of ours: Python's own exit code for it, 1, would read as REGRESSED.
        traceback.print_exc()
        return 2
