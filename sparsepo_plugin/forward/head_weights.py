"""What stands between a final hidden state and a logit: a matrix, a bias, and what the model does then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogitMap:
    """What a model does to every logit after its head: cap * tanh(scale * z / cap), or scale * z without cap.

    Attributes:
      scale: factor (Granite, Cohere).
      cap: bound of the soft-capping (Gemma); None for none.
    """

    scale: float = 1.0
    cap: float | None = None

    def apply_(self, logits: Tensor) -> Tensor:
        """Map raw logits, in place."""
        if self.cap is None:
            return logits if self.scale == 1.0 else logits.mul_(self.scale)
        return logits.mul_(self.scale / self.cap).tanh_().mul_(self.cap)

    def image(self, logits: Tensor) -> Tensor:
        """Mapped logits, differentiable."""
        scaled = logits * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative at raw logits whose images are ``logits``."""
        if self.cap is None:
            return self.scale
        return (1 - (logits / self.cap).square()).mul_(self.scale)

    @staticmethod
    def grid(like: Tensor) -> Tensor:
        """Raw logits whose images tell the map, [1, 1, 9], float32."""
        points = [0.0, 1e-3, -1e-3, 0.5, -3.0, 20.0, -80.0, 1e6, -1e6]
        return torch.tensor(points, device=like.device).view(1, 1, -1)

    @classmethod
    def recognise(cls, grid: Tensor, images: Tensor) -> LogitMap | None:
        """Find the map that sends the grid to its images; None if no scale and cap do, to 1e-4.

        Args:
          grid: as ``grid`` gives it.
          images: what the model made of it.
        """
        if images.numel() != grid.numel():
            return None
        z, y = grid.flatten().double(), images.detach().flatten().double()
        scale = float(y[1] / z[1])
        bound = float(y[7].abs())
        if not (torch.isfinite(y).all() and scale > 0 and bound > 0):
            return None
        candidate = cls(_tidy(scale), None if bound > 0.9 * scale * float(z[7]) else _tidy(bound))
        error = (candidate.apply_(z.clone()) - y).abs() / y.abs().clamp(min=1e-3)
        return candidate if float(error.max()) < 1e-4 else None


def _tidy(value: float) -> float:
    """The value without the rounding of float32 behind its sixth digit."""
    return float(f"{value:.6g}")


class HeadWeights(NamedTuple):
    """An output head's parameters, whole.

    Attributes:
      weight: [vocab, hidden].
      bias: [vocab], or None.
    """

    weight: Tensor
    bias: Tensor | None
