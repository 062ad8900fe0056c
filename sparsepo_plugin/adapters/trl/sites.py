"""Where MaPO records the activations of a reference that may stand inside PEFT's layers."""

from __future__ import annotations

from typing import Any

import torch

from sparsepo_plugin.forward.activations import Site, find_sites


def recording_sites(model: Any, groups: tuple[str, ...]) -> list[Site]:
    """Find where to record activations, on a copy without weights: PEFT's layers look like projections.

    Args:
      model: a transformers or a PEFT model.
      groups: groups of sites.

    Raises:
      UserError: the model lacks the structure of a causal language model.
    """
    if not groups:
        return []
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    with torch.device("meta"):
        return find_sites(type(base)(base.config), groups)
