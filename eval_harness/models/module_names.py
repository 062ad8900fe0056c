"""Which module of an architecture a tensor's name leads to, where the architecture does not know the name."""

from collections.abc import Iterable
from typing import Any


def of_modules_without(model: Any, missing: Iterable[str], held: Iterable[str]) -> list[str]:
    """The missing tensors whose module, and all within it, holds no tensor under any name.

    Args:
      model: the architecture.
      missing: names of its tensors that a checkpoint lacks.
      held: names of tensors that the checkpoint has and the architecture does not know.
    """
    modules = set(dict(model.named_modules()))
    filled = {ancestor for name in held for ancestor in _ancestors(_innermost(name, modules))}
    return [name for name in missing if name.rpartition(".")[0] not in filled]


def _innermost(name: str, modules: set[str]) -> str:
    """The innermost module that a tensor's name leads to; empty for the model itself."""
    module = name
    while module and module not in modules:
        module = module.rpartition(".")[0]
    return module


def _ancestors(module: str) -> list[str]:
    """`a.b.c`, `a.b` and `a` of `a.b.c`."""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def beyond_the_layers(model: Any, names: Iterable[str]) -> list[str]:
    """The tensors that belong to a layer which the architecture does not have.

    Args:
      model: the architecture.
      names: of tensors that it does not know, with or without the name of its base model in front.
    """
    import torch

    modules = dict(model.named_modules())
    lists = [f"{name}." for name, part in modules.items() if isinstance(part, torch.nn.ModuleList)]
    return [
        name
        for name in names
        if any(f".{start}" in f".{name}" and _layer(name, start) not in modules for start in lists)
    ]


def _layer(name: str, start: str) -> str:
    """`encoder.layer.7` of `bert.encoder.layer.7.output.dense.weight` and `encoder.layer.`."""
    return start + f".{name}".partition(f".{start}")[2].partition(".")[0]
