"""Simple preference optimisation without a reference (Meng et al. 2024, arXiv 2405.14734)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch.nn.functional import logsigmoid

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.objective import PairScores, sigmoid_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, TokenStats


@dataclass(frozen=True)
class SimPOOptions(LossOptions):
    """Options of SimPO."""

    gamma: float = option(1.0, "target margin between the rewards, >= 0", least=0.0)

    def needs(self) -> Needs:
        """No reference forward is run (but for the anchor, which is a KL to it)."""
        return replace(super().needs(), reference=self.anchor > 0)

    def validate(self) -> None:
        """SimPO has no masks for the anchor to be weighted by."""
        super().validate()
        if self.anchor_weight != "uniform":
            raise UserError(
                f"option anchor_weight: got {self.anchor_weight}, expected uniform: SimPO has no mask"
            )


@register_loss("simpo", SimPOOptions)
def simpo(stats: TokenStats, masks: Masks, beta: float, options: SimPOOptions) -> LossOutput:
    """SimPO: -log sigmoid(beta (mean log-probability of chosen - of rejected) - gamma).

    ``logits`` is the reward margin before gamma is taken off. Usual beta is 2 to 10: rewards are means over
    tokens, not sums.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first; no reference is needed.
      masks: unused.
      beta: reward scale, > 0.
      options: of SimPO.

    Source: arXiv 2405.14734, equation 6.
    """
    lengths = stats.response_mask.sum(-1).clamp(min=1)
    chosen, rejected = (beta * stats.policy_logps.sum(-1) / lengths).chunk(2)
    losses = -logsigmoid(chosen - rejected - options.gamma)
    return sigmoid_loss(PairScores(chosen, rejected), 1.0)._replace(losses=losses)
