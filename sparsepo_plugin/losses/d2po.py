"""DPO with temporal decay (Shao et al. 2025, arXiv 2502.14340)."""

from __future__ import annotations

from dataclasses import dataclass

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.objective import positions, weighted_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, TokenStats


@dataclass(frozen=True)
class D2POOptions(LossOptions):
    """Options of DPO with temporal decay."""

    gamma: float = option(0.98, "weight of a token over that of the one before it, in (0, 1]", least=0.0)

    def validate(self) -> None:
        """Check the bounds; 1 is DPO."""
        super().validate()
        if not 0 < self.gamma <= 1:
            raise UserError(f"option gamma: got {self.gamma}, expected a number in (0, 1]")


@register_loss("d2po", D2POOptions)
def d2po(stats: TokenStats, masks: Masks, beta: float, options: D2POOptions) -> LossOutput:
    """D2PO: DPO in which token t of a response weighs gamma^t: early tokens count most.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first.
      masks: unused.
      beta: inverse temperature, > 0.
      options: of D2PO.

    Source: arXiv 2502.14340; released code, github.com/LotuSrc/D2PO at ec6c9dbb,
    ``src/llamafactory/train/trainer_utils.py:get_batch_logps``, whose exponents begin at 1, as here.
    """
    weights = options.gamma ** positions(stats.response_mask).to(stats.policy_logps.dtype)
    return weighted_loss(stats, weights, beta)
