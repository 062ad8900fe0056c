"""Conservative DPO: label smoothing (Mitchell 2023; Rafailov et al. 2023, arXiv 2305.18290)."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import logsigmoid

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.objective import masked_scores, sigmoid_loss
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.types import LossOutput, Masks, TokenStats


@dataclass(frozen=True)
class CDPOOptions(LossOptions):
    """Options of conservative DPO."""

    label_smoothing: float = option(0.1, "assumed share of swapped labels, in [0, 0.5)", least=0.0)

    def validate(self) -> None:
        """Check the bounds; at 0.5 the labels would say nothing."""
        super().validate()
        if self.label_smoothing >= 0.5:
            raise UserError(
                f"option label_smoothing: got {self.label_smoothing}, expected a number in [0, 0.5)"
            )


@register_loss("cdpo", CDPOOptions)
def cdpo(stats: TokenStats, masks: Masks, beta: float, options: CDPOOptions) -> LossOutput:
    """Conservative DPO: DPO on labels of which a share is assumed to be swapped.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first.
      masks: reward mask of ones, no KL mask.
      beta: inverse temperature, > 0.
      options: of conservative DPO.

    Source: E. Mitchell, "A note on DPO with noisy preferences" (2023), equation 3; counterpart
    ``openrlhf/models/loss.py:DPOLoss``.
    """
    smoothing = options.label_smoothing
    scores = masked_scores(stats, masks)
    output = sigmoid_loss(scores, beta)
    logits = beta * (scores.chosen - scores.rejected)
    losses = -(1 - smoothing) * logsigmoid(logits) - smoothing * logsigmoid(-logits)
    return output._replace(losses=losses)
