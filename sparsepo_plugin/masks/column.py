"""Masks that the data hold: users say which tokens count."""

from __future__ import annotations

from torch import nn

from sparsepo_plugin.options import MaskOptions
from sparsepo_plugin.registry import register_mask
from sparsepo_plugin.types import Masks, Needs, ReferenceShape, ReferenceState


@register_mask("column", MaskOptions, needs=Needs(token_weights=True))
def column(options: MaskOptions, shape: ReferenceShape, seed: int) -> nn.Module:
    """The data's token weights, 1 where they have none."""
    return ColumnMasks()


class ColumnMasks(nn.Module):
    """Weights of both terms from the data."""

    def forward(self, reference: ReferenceState) -> Masks:
        """The data's weights in float32, [2 * pairs, seq - 1], 0 outside the response.

        Raises:
          ValueError: the adapter did not supply token_weights.
        """
        if reference.token_weights is None:
            raise ValueError("masks of the data need token_weights: got None")
        weights = reference.token_weights.nan_to_num(nan=1.0).masked_fill(~reference.response_mask, 0.0)
        return Masks(weights, weights)
