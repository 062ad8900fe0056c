"""Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036)."""

from __future__ import annotations

from sparsepo_plugin.objective import masked_scores, sigmoid_loss
from sparsepo_plugin.options import LossOptions
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, TokenStats


@register_loss("ipo")
def ipo(stats: TokenStats, masks: Masks, beta: float, options: LossOptions) -> LossOutput:
    """IPO: (log-ratio of chosen - log-ratio of rejected - 1 / (2 beta))^2; bounded margin.

    Log-ratios are summed over tokens, as in the paper and in OpenRLHF.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first.
      masks: reward mask of ones, no KL mask.
      beta: regularisation strength tau, > 0.
      options: none.

    Source: arXiv 2310.12036, equation 17; counterpart ``openrlhf/models/loss.py:DPOLoss``.
    """
    scores = masked_scores(stats, masks)
    difference = scores.chosen - scores.rejected
    return sigmoid_loss(scores, beta)._replace(losses=(difference - 1 / (2 * beta)) ** 2)
