"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290)."""

from __future__ import annotations

from sparsepo_plugin.objective import masked_scores, sigmoid_loss
from sparsepo_plugin.options import LossOptions
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, TokenStats


@register_loss("dpo")
def dpo(stats: TokenStats, masks: Masks, beta: float, options: LossOptions) -> LossOutput:
    """DPO: -log sigmoid(beta (log-ratio of chosen - log-ratio of rejected)); every token weighs 1.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first.
      masks: reward mask of ones, no KL mask.
      beta: inverse temperature, > 0.
      options: none.

    Source: arXiv 2305.18290, equation 7.
    """
    return sigmoid_loss(masked_scores(stats, masks), beta)
