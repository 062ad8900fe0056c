"""The random mask of the paper's ablation: it says whether learning the mask matters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.options import MaskOptions, option
from sparsepo_plugin.registry import register_mask
from sparsepo_plugin.types import Masks, ReferenceShape, ReferenceState

_MODULUS = (1 << 31) - 1


@dataclass(frozen=True)
class RandomOptions(MaskOptions):
    """Options of the random mask."""

    density: float = option(0.5, "share of tokens that a random mask keeps, in (0, 1]", least=0.0)

    def validate(self) -> None:
        """Check the bounds."""
        super().validate()
        if not 0 < self.density <= 1:
            raise UserError(f"option density: got {self.density}, expected a number in (0, 1]")


@register_mask("random", RandomOptions)
def random(options: RandomOptions, shape: ReferenceShape, seed: int) -> nn.Module:
    """Ablation, weights 0 or 1 drawn from the seed and the response."""
    return RandomMasks(options.density, independent=options.masks == "independent", seed=seed)


class RandomMasks(nn.Module):
    """Weight 1 with a given probability, else 0, drawn from the seed and the response itself.

    The same response gets the same mask in every epoch, batch and process; no random state is kept.

    Args:
      density: probability of weight 1, in (0, 1].
      independent: draw the KL mask apart from the reward mask.
      seed: seed of the draw.
    """

    def __init__(self, density: float, *, independent: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.density, self.independent, self.seed = density, independent, seed

    def forward(self, reference: ReferenceState) -> Masks:
        """Binary masks in float32, [2 * pairs, seq - 1], 0 outside the response.

        Raises:
          ValueError: the adapter did not supply token_ids.
        """
        if reference.token_ids is None:
            raise ValueError("a random mask needs token_ids: got None")
        common = self._draw(reference.token_ids, reference.response_mask, 0)
        return Masks(
            common,
            self._draw(reference.token_ids, reference.response_mask, 1) if self.independent else common,
        )

    def _draw(self, token_ids: Tensor, response_mask: Tensor, stream: int) -> Tensor:
        tokens = torch.where(response_mask, token_ids[:, 1:] + 1, 0).long()
        order = response_mask.long().cumsum(
            -1
        )  # position within the response, so that padding changes nothing
        key = _mix(
            (tokens * _mix(order + 7919 * self.seed + 104729 * stream)).sum(-1, keepdim=True) % _MODULUS
        )
        uniform = _mix(key + _mix(order + key)).double() / _MODULUS
        return ((uniform < self.density) & response_mask).float()


def _mix(value: Tensor) -> Tensor:
    """Scramble integers into [0, 2^31 - 1), a few rounds of multiply and shift."""
    for factor in (48271, 69621, 16807):
        value = ((value % _MODULUS) * factor) % _MODULUS
        value = value ^ (value >> 15)
    return value % _MODULUS
