"""MaPO: SparsePO's objective with masks from the reference model's activations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sparsepo_plugin.forward.activations import parse_groups
from sparsepo_plugin.masks.activation import ActivationMasks
from sparsepo_plugin.objective import masked_scores, sigmoid_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, ReferenceShape, TokenStats


@dataclass(frozen=True)
class MaPOOptions(LossOptions):
    """Options of MaPO."""

    sites: str = option("all", "groups of activations: all, or a list of mlp, attn, resid, logits")

    def validate(self) -> None:
        """Check the groups' names."""
        super().validate()
        parse_groups(self.sites)

    def needs(self) -> Needs:
        """Full-vocabulary KL and activations of the reference."""
        return Needs(token_kl=True, activations=parse_groups(self.sites))

    def build_masks(self, shape: ReferenceShape, seed: int) -> nn.Module:
        """Build the mask source; it has no parameters."""
        return ActivationMasks()


@register_loss("mapo", MaPOOptions)
def mapo(stats: TokenStats, masks: Masks, beta: float, options: MaPOOptions) -> LossOutput:
    """MaPO: SparsePO's objective, one fixed mask per token from the reference's activations.

    Args:
      stats: token statistics with token_kl, [2 * pairs, seq - 1], chosen rows first.
      masks: activation masks in [0, 1].
      beta: inverse temperature, > 0.
      options: of MaPO.

    Source: arXiv 2410.05102, section 3.2.
    """
    return sigmoid_loss(masked_scores(stats, masks), beta)
