"""Losses by name: one file and one decorator each; other packages join through an entry point."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import NamedTuple

from sparsepo_plugin.errors import unknown
from sparsepo_plugin.options import LossOptions
from sparsepo_plugin.types import LossOutput, Masks, TokenStats

ENTRY_POINT_GROUP = "sparsepo.losses"
LossFunction = Callable[[TokenStats, Masks, float, LossOptions], LossOutput]


class Loss(NamedTuple):
    """A registered loss: name, formula, options, one-line summary."""

    name: str
    function: LossFunction
    options: type[LossOptions]
    summary: str


_LOSSES: dict[str, Loss] = {}


def register_loss(
    name: str, options: type[LossOptions] = LossOptions
) -> Callable[[LossFunction], LossFunction]:
    """Register the decorated function as loss ``name``; the first line of its docstring is the summary.

    Raises:
      ValueError: the name is taken by another function.
    """

    def register(function: LossFunction) -> LossFunction:
        owner = _LOSSES.get(name)
        if owner is not None and owner.function.__qualname__ != function.__qualname__:
            raise ValueError(f"loss {name!r} is registered twice: {owner.function} and {function}")
        summary = (function.__doc__ or "").strip().split("\n")[0]
        _LOSSES[name] = Loss(name, function, options, summary)
        return function

    return register


def names() -> list[str]:
    """Names of all losses, those of installed plugins included."""
    _load()
    return sorted(_LOSSES)


def get(name: str) -> Loss:
    """Look up a loss.

    Raises:
      UserError: no such loss; the message names near matches.
    """
    _load()
    if name not in _LOSSES:
        raise unknown("loss", name, _LOSSES)
    return _LOSSES[name]


def _load() -> None:
    importlib.import_module("sparsepo_plugin.losses")  # registers this package's losses, like a plugin
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        entry.load()
