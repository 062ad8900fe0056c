"""Token-level importance sampling for DPO (Liu et al. 2024, arXiv 2410.04350)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.objective import data_weights, weighted_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, TokenStats


@dataclass(frozen=True)
class TISDPOOptions(LossOptions):
    """Options of TIS-DPO."""

    transform: Literal["exp", "none"] = option(
        "exp", "exp: the data hold log-ratios of two contrastive models; none: the weights themselves"
    )
    lower: float = option(-0.5, "the log-ratio is cut off below here")
    upper: float = option(1.5, "and above here")

    def validate(self) -> None:
        """Check the order of the bounds."""
        super().validate()
        if not self.lower <= self.upper:
            raise UserError(f"option lower: got {self.lower}, expected a number <= upper {self.upper}")

    def idle(self) -> dict[str, str]:
        """Weights that are given are not cut off."""
        given = dict.fromkeys(("lower", "upper"), "transform none") if self.transform == "none" else {}
        return super().idle() | given

    def needs(self) -> Needs:
        """The data's token weights."""
        return replace(super().needs(), token_weights=True)


@register_loss("tisdpo", TISDPOOptions)
def tisdpo(stats: TokenStats, masks: Masks, beta: float, options: TISDPOOptions) -> LossOutput:
    """TIS-DPO: DPO with token weights from the data, exp(d) on chosen and exp(-d) on rejected responses.

    d is log p+(y_t) - log p-(y_t) of a model trained for the preference and one against it, cut off to
    [lower, upper]; tokens without a number weigh 1. Two things of the paper are left out: its constant k,
    which beta holds, and its term alpha (K_chosen - K_rejected), whose KL runs in the other direction,
    KL(policy || reference). The released code cuts off what it has already turned round for the chosen side.

    Args:
      stats: token statistics with token_weights, [2 * pairs, seq - 1], chosen rows first.
      masks: unused.
      beta: inverse temperature, > 0.
      options: of TIS-DPO.

    Source: arXiv 2410.04350, section 4; released code, github.com/exlaw/TIS-DPO at cbad7c1a, ``trainers.py``.
    """
    if options.transform == "none":
        return weighted_loss(stats, data_weights(stats, 1.0), beta)
    ratios = data_weights(stats, torch.nan).clamp(options.lower, options.upper)
    chosen, rejected = ratios.chunk(2)
    weights = torch.cat([chosen, -rejected]).exp().nan_to_num(nan=1.0)
    return weighted_loss(stats, weights, beta)
