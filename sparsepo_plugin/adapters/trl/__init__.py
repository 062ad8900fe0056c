"""TRL: the registered losses through its own DPO trainer, alone or under Axolotl.

``SparsePOTrainer`` and ``SparsePOConfig`` take the places of TRL's ``DPOTrainer`` and ``DPOConfig``. They are
imported when they are asked for, so that this package can be named where TRL is absent.
"""

from __future__ import annotations

from typing import Any

_WHERE = {
    "SparsePOConfig": "sparsepo_plugin.adapters.trl.config",
    "SparsePOTrainer": "sparsepo_plugin.adapters.trl.trainer",
}
__all__ = ["SparsePOConfig", "SparsePOTrainer"]


def __getattr__(name: str) -> Any:
    """Import a name on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
