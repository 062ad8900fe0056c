"""Suites by name: one file `suite.py` in a folder of its own, one decorator."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import eval_harness
from eval_harness.errors import UserError

F = TypeVar("F", bound=Callable[..., object])


class Suite(NamedTuple):
    """What the runner needs of a suite; presets are the suite's own type with name, version and suite.

    `prepare` makes a checked plan of a job (`jobs.Job` -> `jobs.Plan`), `parse` a preset of parsed YAML and a
    name, `select` a part of a preset by task names and an item limit, `describe` one line on a job without a
    model. `default` names the preset that is meant where none is.
    """

    prepare: Callable[..., Any]
    parse: Callable[..., Any]
    select: Callable[..., Any]
    describe: Callable[..., str]
    default: str


_SUITES: dict[str, Suite] = {}


def register_suite(
    name: str,
    *,
    parse: Callable[..., Any],
    select: Callable[..., Any],
    describe: Callable[..., str],
    default: str,
) -> Callable[[F], F]:
    """Register `prepare` under a unique name; a duplicate raises ValueError naming both owners."""

    def decorate(prepare: F) -> F:
        if name in _SUITES:
            owner = _SUITES[name].prepare.__module__
            raise ValueError(f"suite {name!r}: already {owner}, now {prepare.__module__}")
        _SUITES[name] = Suite(prepare, parse, select, describe, default)
        return prepare

    return decorate


def names() -> list[str]:
    """Names of all suites, sorted."""
    _load()
    return sorted(_SUITES)


def get(name: str) -> Suite:
    """Return the suite; an unknown name raises UserError with near matches."""
    _load()
    if name not in _SUITES:
        raise UserError("unknown suite", got=name, expected=near(name, names()), remedy="eval-harness ls")
    return _SUITES[name]


def _load() -> None:
    """Import every folder's `suite.py`, which registers the suite."""
    for folder in pkgutil.iter_modules(eval_harness.__path__):
        if folder.ispkg:
            modules = pkgutil.iter_modules([f"{path}/{folder.name}" for path in eval_harness.__path__])
            if any(module.name == "suite" for module in modules):
                importlib.import_module(f"eval_harness.{folder.name}.suite")


def near(name: str, known: list[str]) -> str:
    """Near matches of a misspelt name first, else the first known names."""
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    return ("did you mean " + ", ".join(close) + "?") if close else "one of " + ", ".join(known[:8])
