"""Command line of a run: upstream's own parser, plus --loss and the options of every registered loss.

Upstream builds its parser under ``if __name__ == "__main__"``. That block is taken from its source and run
with our parser class in place of argparse's and with ``train`` replaced by a collector, so that upstream's
flags, defaults and post-processing are upstream's own, without importing its heavy modules.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

import torch

from sparsepo_plugin import config, registry
from sparsepo_plugin.adapters.openrlhf import own_flags
from sparsepo_plugin.errors import UserError, unknown
from sparsepo_plugin.options import LossOptions
from sparsepo_plugin.registry import Loss

UPSTREAM_CLI = "openrlhf.cli.train_dpo"


class Parsed(NamedTuple):
    """Arguments as upstream hands them to train(), and the chosen loss (None: upstream's own).

    Attributes:
      notes: what a user should know, a sentence each.
      given: options of the loss that the user names, on the command line or in a file.
    """

    arguments: SimpleNamespace
    loss: Loss | None
    options: LossOptions | None
    notes: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()


def parse(argv: Sequence[str]) -> Parsed:
    """Parse a command line; ``--config FILE`` supplies flags that come before those on the command line.

    Raises:
      UserError: unknown flag, key or loss, a bad value, or contradictory options.
    """
    collected: list[SimpleNamespace] = []
    parser = _Parser(list(argv))
    namespace: dict[str, Any] = {
        "argparse": SimpleNamespace(ArgumentParser=lambda *_, **__: parser),
        "math": math,
        "os": os,
        "datetime": datetime,
        "train": collected.append,
    }
    try:
        exec(_main_block(), namespace)
    except AssertionError as error:  # upstream's way to refuse a combination of flags
        raise UserError(str(error)) from None
    except ImportError as error:
        if error.name != "modelscope":
            raise
        raise UserError("--use_ms needs the package modelscope: not installed") from None
    if not collected:
        raise RuntimeError(f"{UPSTREAM_CLI}: its main block did not call train(args)")
    if not _has_flash_attention():
        # Upstream rewrites this to flash attention when samples are packed; sdpa and eager keep the samples
        # of a packed row apart as well, by its positions.
        collected[0].ds.attn_implementation = parser.attention
    return _finish(collected[0])._replace(notes=tuple(parser.notes))


def _has_flash_attention() -> bool:
    return torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None


def _main_block() -> Any:
    """Compile the body of upstream's ``if __name__ == "__main__"``.

    Raises:
      UserError: openrlhf is not installed.
      RuntimeError: upstream's source has no such block (a version we do not know).
    """
    if importlib.util.find_spec("openrlhf") is None:
        raise UserError(
            "openrlhf is not installed: expected openrlhf==0.11.2; run `make install`, or see README"
        )
    spec = importlib.util.find_spec(UPSTREAM_CLI)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{UPSTREAM_CLI}: no source file")
    with open(spec.origin, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            return compile(ast.Module(body=node.body, type_ignores=[]), spec.origin, "exec")
    raise RuntimeError(f"{spec.origin}: no main block")


_BACK = "--no-"
_OPPOSITE = {"store_true": "store_false", "store_false": "store_true"}
# Flags that the command takes for itself.
_OF_THE_COMMAND = {
    "--processes": "--processes N: processes on this machine",
    "--smoke": "--smoke DIR: try the configuration on a tiny model and generated data",
}


def _taken_back(flag: str) -> str:
    """The flag that takes a switch back."""
    return f"--{flag.removeprefix(_BACK)}" if flag.startswith(_BACK) else f"{_BACK}{flag[2:]}"


class _Parser(argparse.ArgumentParser):
    """Upstream's parser as it is built, with our flags added when it is asked to parse."""

    def __init__(self, argv: list[str]) -> None:
        super().__init__(
            prog="sparsepo train",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            epilog=f"of sparsepo itself: {'; '.join(_OF_THE_COMMAND.values())}",
        )
        self._argv = argv
        self.attention = ""
        self.notes: list[str] = []

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print; argparse's own says nothing of a reader that has gone or a disk that is full."""
        (file or sys.stderr).write(message)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add a flag of upstream's; three are widened: no CUDA, no flash-attn, files."""
        if names[0] == "--ds.param_dtype":
            options["choices"] = [*options["choices"], "fp32"]
        if names[0] == "--ds.attn_implementation" and not _has_flash_attention():
            options["default"] = "sdpa"
        action = super().add_argument(*names, **options)
        if (kind := options.get("action")) in _OPPOSITE:
            # Lets the command line take back a switch that a configuration file sets.
            super().add_argument(
                _taken_back(names[0]), dest=action.dest, action=_OPPOSITE[kind], default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )  # fmt: skip
        return action

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """Add our flags, put the configuration file's before the command line's, parse."""
        own_flags.add(self)
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--config")
        configured, rest = finder.parse_known_args(self._argv)
        switches = [name for name, action in self._option_string_actions.items() if action.nargs == 0]
        taken_back = {name: back for name in switches if (back := _taken_back(name)) in switches}
        rest = config.spelt_out(rest, taken_back)
        if configured.config:
            rest = [*self._read(configured.config, rest), *rest]
        parsed, extra = self.parse_known_args(rest)
        if extra:
            raise self._unknown(extra[0].split("=")[0])
        parsed.config = configured.config
        self.attention = getattr(parsed, "ds.attn_implementation")
        if getattr(parsed, "ds.lora.target_modules", None) == ["all-linear"]:
            # peft knows the word only outside a list, which is what a given flag makes of it.
            setattr(parsed, "ds.lora.target_modules", "all-linear")
        return parsed

    def _read(self, path: str, command: list[str]) -> list[str]:
        """Flags of a configuration file; options of other losses make way for a loss on the command line."""
        known = {a.dest: a.nargs == 0 for a in self._actions if a.dest not in ("help", "version", "config")}
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        finder.add_argument("--loss")
        with contextlib.suppress(argparse.ArgumentError):  # the real parser says it better
            if loss := finder.parse_known_args(command)[0].loss:
                others = tuple(f"{name}." for name in registry.names() if name != loss)
                flat = config.read_flat(path)
                aside = [key for key, value in flat.items() if value is not None and key.startswith(others)]
                if aside:
                    self.notes.append(f"--loss {loss}: set aside of {path}: {', '.join(aside)}")
                return config.read_flags(path, known, others)
        return config.read_flags(path, known)

    def _unknown(self, name: str) -> UserError:
        if name in _OF_THE_COMMAND:
            return UserError(
                f"unknown flag {name!r}: it is one of the command sparsepo ({_OF_THE_COMMAND[name]}); other "
                "launchers have their own"
            )
        kind = name.startswith(_BACK)  # forms that take a switch back are suggested to those who ask for one
        flags = [flag for flag in self._option_string_actions if flag.startswith(_BACK) == kind]
        return unknown("flag", name, flags, see=f"{self.prog} --help")

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UserError(message)


def _finish(arguments: SimpleNamespace) -> Parsed:
    """Collect the chosen loss's options, replace them by their effective values, refuse contradictions."""
    given = {name: vars(getattr(arguments, name, SimpleNamespace())) for name in registry.names()}
    for name, values in given.items():
        if values and name != arguments.loss:
            flags = ", ".join(f"--{name}.{key}" for key in values)
            raise UserError(
                f"{flags} given with --loss {arguments.loss}: expected --loss {name}, or no such flag"
            )
    if arguments.loss is None:
        return Parsed(arguments, None, None)
    loss = registry.get(arguments.loss)
    options = loss.options.build(given[loss.name])
    options.check_effects()
    setattr(arguments, loss.name, SimpleNamespace(**vars(options)))
    return Parsed(arguments, loss, options, given=frozenset(given[loss.name]))
