"""DPO on critical tokens (Lin et al. 2024, arXiv 2411.19943), there called cDPO."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from sparsepo_plugin.objective import data_weights, weighted_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, TokenStats


@dataclass(frozen=True)
class CriticalDPOOptions(LossOptions):
    """Options of DPO on critical tokens."""

    sides: Literal["both", "rejected"] = option("both", "the responses whose tokens are weighed")

    def needs(self) -> Needs:
        """The data's token weights."""
        return replace(super().needs(), token_weights=True)


@register_loss("criticaldpo", CriticalDPOOptions)
def criticaldpo(stats: TokenStats, masks: Masks, beta: float, options: CriticalDPOOptions) -> LossOutput:
    """Critical tokens: DPO in which tokens weigh s (chosen) and 1 - s (rejected), s from the data.

    s in [0, 1] is the contrastive estimate of how well a token speaks for a right answer (``ce_prob`` in the
    released code); what lies outside is cut off, and tokens without a number weigh 1. The paper sums over
    tokens inside the sigmoid, as here; the released code takes -log sigmoid of every position and pairs
    token t of both responses. ``sides rejected`` is its ``only_neg``.

    Args:
      stats: token statistics with token_weights, [2 * pairs, seq - 1], chosen rows first.
      masks: unused.
      beta: inverse temperature, > 0.
      options: of DPO on critical tokens.

    Source: arXiv 2411.19943; released code, github.com/chenzhiling9954/Critical-Tokens-Matter at 228991e6,
    ``src/train/train_cdpo.py``.
    """
    chosen, rejected = data_weights(stats, torch.nan).clamp(0, 1).chunk(2)
    if options.sides == "rejected":
        chosen = torch.ones_like(chosen)
    return weighted_loss(stats, torch.cat([chosen, 1 - rejected]).nan_to_num(nan=1.0), beta)
