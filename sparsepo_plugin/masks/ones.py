"""The mask of losses that weight no token."""

from __future__ import annotations

import torch
from torch import nn

from sparsepo_plugin.types import Masks, ReferenceState


class OnesMask(nn.Module):
    """Weight 1 on every token; has no parameters.

    Args:
      kl: also weight the KL term; without it the loss has none.
    """

    def __init__(self, kl: bool) -> None:
        super().__init__()
        self.kl = kl

    def forward(self, reference: ReferenceState) -> Masks:
        """Masks of ones in float32, [2 * pairs, seq - 1]."""
        ones = torch.ones(reference.response_mask.shape, device=reference.response_mask.device)
        return Masks(ones, ones if self.kl else None)
