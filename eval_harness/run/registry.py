"""Suites by name: one file `suite.py` in a folder of its own, one decorator over a class."""

import argparse
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import eval_harness
from eval_harness.errors import UserError, near
from eval_harness.run.job import Job, O, P, Plan

S = TypeVar("S", bound="type[Suite[Any, Any]]")


class Suite(ABC, Generic[P, O]):
    """All that the harness knows of a suite: its presets' type P, its options' type O, how it is planned.

    Scores say themselves which way is better and which of them are main; `Measured.facts` are what a report
    says beside the gates.
    """

    name: ClassVar[str] = ""
    default_preset: ClassVar[str]
    preset_type: type[P]

    def add_flags(self, group: "argparse._ArgumentGroup") -> None:
        """Add the suite's flags to `run` and `validate`, in a group with its name."""

    @abstractmethod
    def options(self, args: argparse.Namespace) -> O:
        """The suite's options of a command line; touches no model."""

    def is_local(self, preset: P, options: O) -> bool:
        """Whether everything the preset reads is at hand, so that no hub need be asked."""
        return False

    @abstractmethod
    def describe(self, job: Job[P, O]) -> str:
        """Check what can be checked without a model, in one line. Raises UserError."""

    @abstractmethod
    def prepare(self, job: Job[P, O]) -> Plan:
        """Preflight: check everything, load no model. Raises UserError: the first thing that would fail."""


_SUITES: dict[str, Suite[Any, Any]] = {}


def register_suite(name: str) -> Callable[[S], S]:
    """Register a suite under a unique name; a duplicate raises ValueError naming both owners."""

    def decorate(cls: S) -> S:
        if name in _SUITES:
            owner = type(_SUITES[name]).__module__
            raise ValueError(f"suite {name!r}: already {owner}, now {cls.__module__}")
        cls.name = name
        _SUITES[name] = cls()
        return cls

    return decorate


def names() -> list[str]:
    """Names of all suites, sorted."""
    _load()
    return sorted(_SUITES)


def get(name: str) -> Suite[Any, Any]:
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
