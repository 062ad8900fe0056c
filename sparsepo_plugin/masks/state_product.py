"""Products of the reference's hidden states with a mask's weights that keep nothing but the states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def state_product(states: Tensor, weights: Tensor, eps: float | None) -> Tensor:
    """(h - mean(h)) / sqrt(var(h) + eps) times every row of the weights; h times them without an eps.

    w . LayerNorm(h) with gain g and bias s is (w g) . (h - mean) / sigma + w . s. With weights whose rows have
    the mean 0 the mean of h drops out: what is left is a product of the states as they are, and one moment.

    Args:
      states: [..., hidden], any float dtype; no gradient flows to them.
      weights: [k, hidden], in the dtype that is computed in, float32 or better.
      eps: of the LayerNorm; None for none.

    Returns:
      [..., k], in the weights' dtype.
    """
    centred = weights if eps is None else weights - weights.mean(-1, keepdim=True)
    product: Tensor = _StateProduct.apply(states.detach(), centred, eps)  # type: ignore[no-untyped-call]
    return product


class _StateProduct(torch.autograd.Function):
    """Autograd would keep the states in float32, and normalised once more, for every layer and mask."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weights: Tensor, eps: float | None) -> Tensor:
        wide = states.to(weights.dtype)
        scale = None
        if eps is not None:
            scale = torch.rsqrt(wide.var(-1, correction=0, keepdim=True) + eps)
        ctx.save_for_backward(states, scale)
        ctx.dtype = weights.dtype
        product = wide @ weights.T
        return product if scale is None else product * scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        states, scale = ctx.saved_tensors
        grad = grad if scale is None else grad * scale
        return None, grad.flatten(0, -2).T @ states.flatten(0, -2).to(ctx.dtype), None
