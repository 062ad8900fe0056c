"""Token-level DPO, version 1 (Zeng et al. 2024, arXiv 2404.11999)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparsepo_plugin.objective import masked_scores, sigmoid_loss
from sparsepo_plugin.options import LossOptions
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, TokenStats


@dataclass(frozen=True)
class TDPO1Options(LossOptions):
    """Options of TDPO version 1: none of its own."""

    def needs(self) -> Needs:
        """Full-vocabulary KL."""
        return replace(super().needs(), token_kl=True)

    def masks_kl(self) -> bool:
        """The KL term weighs every token 1."""
        return True


@register_loss("tdpo1", TDPO1Options)
def tdpo1(stats: TokenStats, masks: Masks, beta: float, options: TDPO1Options) -> LossOutput:
    """TDPO version 1: SparsePO with both masks 1 on every token.

    Args:
      stats: token statistics with token_kl, [2 * pairs, seq - 1], chosen rows first.
      masks: ones.
      beta: inverse temperature, > 0.
      options: of TDPO version 1.

    Source: arXiv 2404.11999, equation 15.
    """
    return sigmoid_loss(masked_scores(stats, masks), beta)
