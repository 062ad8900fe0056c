"""DPO guided by token-level rewards (Zhu et al. 2025, arXiv 2506.14574)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sparsepo_plugin.objective import data_weights, weighted_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, TokenStats


@dataclass(frozen=True)
class TGDPOOptions(LossOptions):
    """Options of TGDPO."""

    alpha: float = option(0.5, "strength of the guidance; 0 is DPO", least=0.0)

    def needs(self) -> Needs:
        """The data's token weights."""
        return replace(super().needs(), token_weights=True)


@register_loss("tgdpo", TGDPOOptions)
def tgdpo(stats: TokenStats, masks: Masks, beta: float, options: TGDPOOptions) -> LossOutput:
    """TGDPO: DPO in which tokens weigh 1 + alpha beta q (chosen) and 1 - alpha beta q (rejected).

    q is the token's log-ratio log p(y_t) - log ref(y_t) of an earlier preference-trained model, held by the
    data; tokens without a number weigh 1. The released code runs that model beside policy and reference. The
    weights may be negative.

    Args:
      stats: token statistics with token_weights, [2 * pairs, seq - 1], chosen rows first.
      masks: unused.
      beta: inverse temperature, > 0.
      options: of TGDPO.

    Source: arXiv 2506.14574; released code, github.com/dvlab-research/TGDPO at dd889823,
    ``src/llamafactory/train/tgdpo/trainer.py:dpo_loss``.
    """
    chosen, rejected = (options.alpha * beta * data_weights(stats, 0.0)).chunk(2)
    return weighted_loss(stats, torch.cat([1 + chosen, 1 - rejected]), beta)
