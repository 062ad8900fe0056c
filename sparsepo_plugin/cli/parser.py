"""argparse whose complaints are one line, with near matches of the very command's own words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from sparsepo_plugin import __version__, config
from sparsepo_plugin.errors import UserError, unknown

# Commands of eval-harness, which people look for here as well.
_EVALUATION = ("run", "compare", "gate", "report", "agreement", "identity", "scorer-agreement", "meta")


class Parser(argparse.ArgumentParser):
    """A command.

    Args:
      passes_on: flags that it does not know are another parser's, which complains itself.
      options: argparse's.
    """

    def __init__(self, *args: Any, passes_on: bool = False, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})
        self._passes_on = passes_on
        self.add_argument("--version", action="version", version=f"sparsepo {__version__}")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Complain of an unknown flag first: with it, a required one is mostly misspelt, not missing."""
        args = config.spelt_out(args or (), self._switches())
        for word in () if self._passes_on else args:
            name = word.split("=")[0]
            if name.startswith("--") and name != "--" and name not in self._option_string_actions:
                raise unknown("flag", name, self._option_string_actions, see=f"{self.prog} --help")
        return super().parse_known_args(args, namespace)

    def _switches(self) -> dict[str, None]:
        return {name: None for name, action in self._option_string_actions.items() if action.nargs == 0}

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            if value in _EVALUATION:
                raise UserError(
                    f"unknown command {value!r}: it is one of the other program, eval-harness {value}"
                )
            raise unknown("command", value, action.choices)
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UserError(f"{message}; see {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print; argparse's own says nothing of a reader that has gone or a disk that is full."""
        (file or sys.stderr).write(message)
