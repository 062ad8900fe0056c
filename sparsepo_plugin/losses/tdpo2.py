"""Token-level DPO, version 2 (Zeng et al. 2024, arXiv 2404.11999)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparsepo_plugin.objective import PairScores, masked_kl, masked_log_ratios, sigmoid_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, TokenStats


@dataclass(frozen=True)
class TDPO2Options(LossOptions):
    """Options of TDPO version 2."""

    alpha: float = option(0.5, "weight of the KL difference, >= 0", least=0.0)

    def needs(self) -> Needs:
        """Full-vocabulary KL."""
        return replace(super().needs(), token_kl=True)

    def masks_kl(self) -> bool:
        """The KL term weighs every token 1."""
        return True


@register_loss("tdpo2", TDPO2Options)
def tdpo2(stats: TokenStats, masks: Masks, beta: float, options: TDPO2Options) -> LossOutput:
    """TDPO version 2: the KL difference weighs alpha, and no gradient flows through the chosen side's KL.

    Rewards are beta (U + alpha K) per response, so that chosen - rejected is the loss's logit.

    Args:
      stats: token statistics with token_kl, [2 * pairs, seq - 1], chosen rows first.
      masks: ones.
      beta: inverse temperature, > 0.
      options: of TDPO version 2.

    Source: arXiv 2404.11999, equation 17.
    """
    ratios, kls = masked_log_ratios(stats, masks), masked_kl(stats, masks)
    scores = PairScores(
        ratios.chosen + options.alpha * kls.chosen.detach(), ratios.rejected + options.alpha * kls.rejected
    )
    return sigmoid_loss(scores, beta)
