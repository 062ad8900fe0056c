"""Confidence-selected preference optimisation without a reference (Yoon et al. 2025, arXiv 2506.08712)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn.functional import logsigmoid

from sparsepo_plugin.objective import PairScores, masked_sum, sigmoid_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, TokenStats


@dataclass(frozen=True)
class ConfPOOptions(LossOptions):
    """Options of ConfPO."""

    gamma: float = option(1.6, "target margin between the rewards, >= 0", least=0.0)

    def needs(self) -> Needs:
        """No reference forward is run (but for the anchor, which is a KL to it)."""
        return replace(super().needs(), reference=self.anchor > 0)


@register_loss("confpo", ConfPOOptions)
def confpo(stats: TokenStats, masks: Masks, beta: float, options: ConfPOOptions) -> LossOutput:
    """ConfPO: SimPO over the tokens that the policy finds less likely than the response's mean.

    Kept are tokens with pi(y_t) below the mean of pi over the response; a pair of which a side keeps none has
    loss 0. ``logits`` is the margin before gamma is taken off. The released beta is 1.5.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first; no reference is needed.
      masks: unused.
      beta: reward scale, > 0.
      options: of ConfPO.

    Source: arXiv 2506.08712; released code, github.com/hee-suk-yoon/ConfPO at 044b366f,
    ``trl/trainer/cpo_trainer.py:cpo_loss_confpo``.
    """
    response, logps = stats.response_mask, stats.policy_logps
    lengths = response.sum(-1, keepdim=True).clamp(min=1)
    mean = torch.where(response, logps.detach().exp(), 0.0).sum(-1, keepdim=True) / lengths
    kept = response & (logps.detach() < mean.log())
    numbers = kept.sum(-1)
    chosen, rejected = (beta * masked_sum(logps, kept.to(logps.dtype), kept) / numbers.clamp(min=1)).chunk(2)
    both = (numbers > 0).view(2, -1).all(0)
    losses = torch.where(both, -logsigmoid(chosen - rejected - options.gamma), 0.0)
    output = sigmoid_loss(PairScores(chosen, rejected), 1.0)
    return output._replace(losses=losses, weights=kept.to(logps.dtype))
