"""The ablation without masks: SparsePO is then TDPO version 1."""

from __future__ import annotations

from torch import nn

from sparsepo_plugin.masks.ones import OnesMask
from sparsepo_plugin.options import MaskOptions
from sparsepo_plugin.registry import register_mask
from sparsepo_plugin.types import ReferenceShape


@register_mask("uniform")
def uniform(options: MaskOptions, shape: ReferenceShape, seed: int) -> nn.Module:
    """Ablation, weight 1 on every token (= tdpo1 with as much of an anchor)."""
    return OnesMask(kl=True)
