"""Suites by name: one file, one decorator."""

import difflib
from collections.abc import Callable
from typing import TypeVar

from eval_harness.errors import UserError

F = TypeVar("F", bound=Callable[..., object])
_SUITES: dict[str, Callable[..., object]] = {}


def register_suite(name: str) -> Callable[[F], F]:
    """Register a suite under a unique name; a duplicate raises ValueError naming both owners."""

    def decorate(function: F) -> F:
        if name in _SUITES:
            raise ValueError(f"suite {name!r}: already {_SUITES[name].__module__}, now {function.__module__}")
        _SUITES[name] = function
        return function

    return decorate


def names() -> list[str]:
    """Names of all suites, sorted."""
    return sorted(_SUITES)


def get(name: str) -> Callable[..., object]:
    """Return the suite; an unknown name raises UserError with near matches."""
    if name not in _SUITES:
        raise UserError("unknown suite", got=name, expected=near(name, names()), remedy="eval-harness ls")
    return _SUITES[name]


def near(name: str, known: list[str]) -> str:
    """Near matches of a misspelt name first, else the first known names."""
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    return ("did you mean " + ", ".join(close) + "?") if close else "one of " + ", ".join(known[:8])
