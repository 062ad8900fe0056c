"""DPO-Positive (Pal et al. 2024, arXiv 2402.13228)."""

from __future__ import annotations

from dataclasses import dataclass

from sparsepo_plugin.objective import PairScores, masked_scores, sigmoid_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, TokenStats


@dataclass(frozen=True)
class DPOPOptions(LossOptions):
    """Options of DPO-Positive."""

    penalty: float = option(
        50.0, "lambda, weight of a chosen response less likely than before, >= 0", least=0.0
    )


@register_loss("dpop", DPOPOptions)
def dpop(stats: TokenStats, masks: Masks, beta: float, options: DPOPOptions) -> LossOutput:
    """DPOP: DPO with a penalty, inside the sigmoid, when the chosen response becomes less likely.

    The penalty counts in the reward of the chosen response, so that chosen - rejected is the logit.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first.
      masks: reward mask of ones, no KL mask.
      beta: inverse temperature, > 0.
      options: of DPOP.

    Source: arXiv 2402.13228, equation 3.
    """
    scores = masked_scores(stats, masks)
    chosen = scores.chosen - options.penalty * (-scores.chosen).clamp(min=0)
    return sigmoid_loss(PairScores(chosen, scores.rejected), beta)
