"""Selective preference optimisation (Yang et al. 2024, arXiv 2408.13518)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.objective import PairScores, data_weights, masked_sum, sigmoid_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, TokenStats


@dataclass(frozen=True)
class SePOOptions(LossOptions):
    """Options of SePO."""

    chosen_share: float = option(0.3, "share of a chosen response's tokens that are kept", least=0.0)
    rejected_share: float = option(0.3, "share of a rejected response's tokens that are kept", least=0.0)

    def validate(self) -> None:
        """Check the bounds."""
        super().validate()
        for name in ("chosen_share", "rejected_share"):
            if not 0 < (value := getattr(self, name)) <= 1:
                raise UserError(f"option {name}: got {value}, expected a number in (0, 1]")

    def needs(self) -> Needs:
        """The data's token weights, and no reference (but for the anchor, which is a KL to it)."""
        return replace(super().needs(), token_weights=True, reference=self.anchor > 0)


@register_loss("sepo", SePOOptions)
def sepo(stats: TokenStats, masks: Masks, beta: float, options: SePOOptions) -> LossOutput:
    """SePO: without a reference, on the best tokens of chosen and the worst of rejected responses.

    The loss is -log sigmoid(beta (mean log-probability of chosen's kept tokens - of rejected's)); beta is the
    paper's gamma. The data hold every token's log-ratio of an oracle, a small model trained with DPO; tokens
    without a number count as 0. Kept is the share of tokens rounded up; of equal ones the first.

    Args:
      stats: token statistics with token_weights, [2 * pairs, seq - 1], chosen rows first.
      masks: unused.
      beta: reward scale, > 0.
      options: of SePO.

    Source: arXiv 2408.13518, section 3; written from the paper's description, not compared with code.
    """
    chosen, rejected = data_weights(stats, 0.0).chunk(2)
    scores = torch.cat([chosen, -rejected])
    pairs = len(chosen)
    shares = scores.new_tensor([options.chosen_share] * pairs + [options.rejected_share] * pairs)
    kept = _best(scores, stats.response_mask, shares).to(stats.policy_logps.dtype)
    sums = masked_sum(stats.policy_logps, kept, stats.response_mask)
    means = (beta * sums / kept.sum(-1).clamp(min=1)).chunk(2)
    return sigmoid_loss(PairScores(*means), 1.0)._replace(weights=kept)


def _best(scores: Tensor, response: Tensor, shares: Tensor) -> Tensor:
    """The given share of every response's tokens with the largest scores, [rows, seq - 1], bool."""
    order = scores.masked_fill(~response, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    numbers = (shares * response.sum(-1) - 1e-6).ceil().clamp(min=1)
    kept: Tensor = (order.argsort(-1) < numbers[:, None]) & response
    return kept
