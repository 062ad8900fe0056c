"""Products of the reference's hidden states with a mask's weights that keep nothing but the states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def state_product(states: Tensor, weights: Tensor, eps: float | None) -> Tensor:
    """(h - mean(h)) / sqrt(var(h) + eps) times every row of the weights; h times them without an eps.

    w . LayerNorm(h) with gain g and bias s is (w g) . (h - mean) / sigma + w . s.

    Args:
      states: [..., hidden], any float dtype; no gradient flows to them.
      weights: [k, hidden], in the dtype that is computed in, float32 or better.
      eps: of the LayerNorm; None for none.

    Returns:
      [..., k], in the weights' dtype.
    """
    product: Tensor = _StateProduct.apply(states.detach(), weights, eps)  # type: ignore[no-untyped-call]
    return product


class _StateProduct(torch.autograd.Function):
    """Autograd would keep the states in float32, and normalised once more, for every layer and mask."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weights: Tensor, eps: float | None) -> Tensor:
        scale = mean = None
        if eps is not None:
            variance, mean = torch.var_mean(states.to(weights.dtype), -1, correction=0, keepdim=True)
            scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(states, mean, scale)
        ctx.dtype = weights.dtype
        product = _centred(states, mean, weights.dtype) @ weights.T
        return product if scale is None else product * scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        states, mean, scale = ctx.saved_tensors
        grad = grad if scale is None else grad * scale
        return None, grad.flatten(0, -2).T @ _centred(states, mean, ctx.dtype).flatten(0, -2), None


def _centred(states: Tensor, mean: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The states in a dtype, without their mean, which is taken off first because outliers are large."""
    return states.to(dtype) if mean is None else states - mean
