"""Length-desensitised DPO (Liu et al. 2024, arXiv 2409.06411)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.objective import positions, weighted_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, TokenStats


@dataclass(frozen=True)
class LDDPOOptions(LossOptions):
    """Options of length-desensitised DPO."""

    alpha: float = option(
        0.5, "weight of tokens beyond the shorter response's length, in [0, 1]; 1 is DPO", least=0.0
    )

    def validate(self) -> None:
        """Check the bounds."""
        super().validate()
        if self.alpha > 1:
            raise UserError(f"option alpha: got {self.alpha}, expected a number in [0, 1]")


@register_loss("lddpo", LDDPOOptions)
def lddpo(stats: TokenStats, masks: Masks, beta: float, options: LDDPOOptions) -> LossOutput:
    """LD-DPO: DPO in which what a response is longer than the other one weighs alpha.

    The paper tunes alpha for every model and TRL leaves it off; the default is ours.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first.
      masks: unused.
      beta: inverse temperature, > 0.
      options: of LD-DPO.

    Source: arXiv 2409.06411, section 4; counterpart TRL 1.16, ``trainer/dpo_trainer.py``, ``ld_alpha``.
    """
    lengths = stats.response_mask.sum(-1)
    shorter = torch.minimum(*lengths.chunk(2)).repeat(2)
    beyond = positions(stats.response_mask) > shorter[:, None]
    weights = torch.ones_like(stats.policy_logps).masked_fill(beyond, options.alpha)
    return weighted_loss(stats, weights, beta)
