"""DPO with token weights from optimal transport (Li et al. 2025, arXiv 2505.18720)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.objective import weighted_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, TokenStats

_PRECISION, _MOST_ROUNDS = 1e-12, 1000


@dataclass(frozen=True)
class OTPOOptions(LossOptions):
    """Options of OTPO."""

    reg: float = option(1.0, "entropic regularisation of the transport plan, > 0", least=0.0)
    reg_m: float = option(0.2, "how strictly the plan keeps every token's mass, > 0", least=0.0)

    def validate(self) -> None:
        """Check the bounds."""
        super().validate()
        for name in ("reg", "reg_m"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise UserError(f"option {name}: got {value}, expected a number > 0")

    def needs(self) -> Needs:
        """The policy's final hidden states."""
        return replace(super().needs(), policy_states=True)


@register_loss("otpo", OTPOOptions)
def otpo(stats: TokenStats, masks: Masks, beta: float, options: OTPOOptions) -> LossOutput:
    """OTPO: DPO in which tokens weigh the mass that unbalanced optimal transport moves to the other response.

    The cost is the Euclidean distance of the policy's final states, divided by its largest value where that
    is above 1; the weights of both responses add up to the length of the shorter one. The released code takes
    that largest value over padding too, whose states it sets to 0; here padding changes nothing.

    Args:
      stats: token statistics with policy_states, [2 * pairs, seq - 1], chosen rows first.
      masks: unused.
      beta: inverse temperature, > 0.
      options: of OTPO.

    Raises:
      ValueError: policy_states are missing.

    Source: arXiv 2505.18720; released code, github.com/Mimasss2/OTPO at 3269f448,
    ``scripts/otpo_trainer.py:get_ot_weight``.
    """
    if stats.policy_states is None:
        raise ValueError("this loss needs policy_states: got None")
    dtype = torch.promote_types(torch.float32, stats.policy_states.dtype)
    states = stats.policy_states.detach().to(dtype).masked_fill(~stats.response_mask[..., None], 0.0)
    plan = transport_plan(states, stats.response_mask, options.reg, options.reg_m)
    shorter = torch.minimum(*stats.response_mask.sum(-1).chunk(2))
    scale = plan.sum((1, 2)) / shorter.clamp(min=1)
    weights = torch.cat([plan.sum(2), plan.sum(1)]) / scale.repeat(2)[:, None]
    return weighted_loss(stats, weights.to(stats.policy_logps.dtype), beta)


def transport_plan(states: Tensor, response_mask: Tensor, reg: float, reg_m: float) -> Tensor:
    """Plan of entropic unbalanced transport between the tokens of every pair, [pairs, n, n]; 0 on padding.

    Sinkhorn iterations in logarithms. One round brings every pair's potentials nearer by the square of
    reg_m / (reg_m + reg), so that their number is known beforehand and no pair waits for another.

    Args:
      states: of the tokens, [2 * pairs, n, hidden], chosen rows first.
      response_mask: true on response tokens, [2 * pairs, n].
      reg: entropic regularisation.
      reg_m: regularisation of the marginals, which are 1 on every token.
    """
    (chosen, rejected), (chosen_mask, rejected_mask) = states.chunk(2), response_mask.chunk(2)
    both = chosen_mask[:, :, None] & rejected_mask[:, None, :]
    # Not by a matrix product, which torch takes from a size on and which rounds differently.
    cost = torch.cdist(chosen, rejected, compute_mode="donot_use_mm_for_euclid_dist")
    largest = cost.masked_fill(~both, 0.0).amax((1, 2), keepdim=True)
    kernel = (-cost / largest.clamp(min=1) / reg).masked_fill(~both, -torch.inf)
    power = reg_m / (reg_m + reg)
    rounds = min(_MOST_ROUNDS, 1 + math.ceil(math.log(_PRECISION) / (2 * math.log(power))))
    left, right = torch.zeros_like(kernel[:, :, 0]), torch.zeros_like(kernel[:, 0])
    for _ in range(rounds):
        left = -power * torch.logsumexp(kernel + right[:, None, :], 2)
        left = left.masked_fill(~chosen_mask, 0.0)
        right = -power * torch.logsumexp(kernel + left[:, :, None], 1)
        right = right.masked_fill(~rejected_mask, 0.0)
    return (left[:, :, None] + kernel + right[:, None, :]).exp()
