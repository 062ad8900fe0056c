"""Losses and mask sources by name: one file and one decorator each; other packages join by entry points."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Literal, NamedTuple, TypeVar, overload

from torch import nn

from sparsepo_plugin.errors import unknown
from sparsepo_plugin.options import LossOptions, MaskOptions
from sparsepo_plugin.types import LossOutput, Masks, Needs, ReferenceShape, TokenStats

LossChoice = TypeVar("LossChoice", bound=LossOptions)
MaskChoice = TypeVar("MaskChoice", bound=MaskOptions)
LossFunction = Callable[[TokenStats, Masks, float, LossChoice], LossOutput]
MaskBuilder = Callable[[MaskChoice, ReferenceShape, int], nn.Module]


class Loss(NamedTuple):
    """A registered loss: name, formula, options, one-line summary."""

    name: str
    function: LossFunction[Any]
    options: type[LossOptions]
    summary: str


class MaskSource(NamedTuple):
    """A registered mask source.

    Attributes:
      name: as users choose it.
      function: builds the module, from ReferenceState to Masks.
      options: what it can be told.
      summary: one line.
      needs: what the adapter must supply for it.
      learned: the module has parameters to train.
    """

    name: str
    function: MaskBuilder[Any]
    options: type[MaskOptions]
    summary: str
    needs: Needs
    learned: bool


_NOTHING_MORE = Needs()
_LOSSES: dict[str, Loss] = {}
_MASKS: dict[str, MaskSource] = {}


@overload
def register_loss(name: str) -> Callable[[LossFunction[LossOptions]], LossFunction[LossOptions]]: ...
@overload
def register_loss(
    name: str, options: type[LossChoice]
) -> Callable[[LossFunction[LossChoice]], LossFunction[LossChoice]]: ...
def register_loss(name: str, options: type[Any] = LossOptions) -> Callable[[Any], Any]:
    """Register the decorated function as loss ``name``; the first line of its docstring is the summary.

    Raises:
      ValueError: the name is taken by another function.
    """

    def register(function: LossFunction[Any]) -> LossFunction[Any]:
        _refuse_second("loss", name, function, _LOSSES)
        _LOSSES[name] = Loss(name, function, options, _summary(function))
        return function

    return register


@overload
def register_mask(name: str) -> Callable[[MaskBuilder[MaskOptions]], MaskBuilder[MaskOptions]]: ...
@overload
def register_mask(
    name: str, options: type[MaskChoice], *, needs: Needs = ..., learned: bool = ...
) -> Callable[[MaskBuilder[MaskChoice]], MaskBuilder[MaskChoice]]: ...
def register_mask(
    name: str, options: type[Any] = MaskOptions, *, needs: Needs = _NOTHING_MORE, learned: bool = False
) -> Callable[[Any], Any]:
    """Register the decorated function as mask source ``name`` of SparsePO.

    The first line of its docstring is the summary; the options become SparsePO's.

    Args:
      name: as users choose it with ``--sparsepo.source``.
      options: what the source can be told.
      needs: what the adapter must supply.
      learned: the module has parameters, which ``decayed_parameters`` divides into weights and others.

    Raises:
      ValueError: the name is taken by another function.
    """

    def register(function: MaskBuilder[Any]) -> MaskBuilder[Any]:
        _refuse_second("mask source", name, function, _MASKS)
        _MASKS[name] = MaskSource(name, function, options, _summary(function), needs, learned)
        return function

    return register


def names() -> list[str]:
    """Names of all losses, those of installed plugins included."""
    _load("losses")
    return sorted(_LOSSES)


def get(name: str) -> Loss:
    """Look up a loss.

    Raises:
      UserError: no such loss; the message names near matches.
    """
    _load("losses")
    if name not in _LOSSES:
        raise unknown("loss", name, _LOSSES)
    return _LOSSES[name]


def mask_sources() -> dict[str, MaskSource]:
    """All mask sources in order of their names, those of installed plugins included."""
    _load("masks")
    return dict(sorted(_MASKS.items()))


def mask_options() -> type[MaskOptions]:
    """A class with the options of all mask sources, each under the one name that it has in all of them.

    Raises:
      ValueError: two classes of options declare the same name.
    """
    classes = list(dict.fromkeys(source.options for source in mask_sources().values()))
    owners: dict[str, type] = {}
    for declaring in dict.fromkeys(parent for options in classes for parent in options.__mro__):
        for name in vars(declaring).get("__annotations__", ()):
            if owners.setdefault(name, declaring) is not declaring:
                raise ValueError(f"option {name} is declared by {owners[name]} and by {declaring}")
    most_derived = [
        one for one in classes if not any(one is not two and issubclass(two, one) for two in classes)
    ]
    made: type[MaskOptions] = dataclasses.make_dataclass(
        "SourceOptions", [], bases=tuple(most_derived), frozen=True
    )
    return made


def _summary(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().split("\n")[0]


def _refuse_second(
    kind: str, name: str, function: Callable[..., Any], table: Mapping[str, Loss | MaskSource]
) -> None:
    owner = table.get(name)
    if owner is not None and owner.function.__qualname__ != function.__qualname__:
        raise ValueError(f"{kind} {name!r} is registered twice: {owner.function} and {function}")


def _load(kind: Literal["losses", "masks"]) -> None:
    """Import, and so register, every module of this package's folder, then those that entry points name."""
    package = importlib.import_module(f"sparsepo_plugin.{kind}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for entry in entry_points(group=f"sparsepo.{kind}"):
        entry.load()
