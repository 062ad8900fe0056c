"""Products of the reference's hidden states with a mask's weights that keep nothing but the states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

# Elements of the states that are worked on at once on a device where launches cost more than memory traffic.
_AT_ONCE = 1 << 25


def state_products(states: Sequence[Tensor], weights: Tensor, eps: float | None) -> Tensor:
    """(h - mean(h)) / sqrt(var(h) + eps) of every layer times each of its weights; without an eps h itself.

    w . LayerNorm(h) with gain g and bias s is (w g) . (h - mean) / sigma + w . s.

    Args:
      states: one tensor per layer, [..., hidden] each, any float dtype; no gradient flows to them.
      weights: [layers, k, hidden], in the dtype that is computed in, float32 or better.
      eps: of the LayerNorm; None for none.

    Returns:
      [layers, ..., k], in the weights' dtype.
    """
    product: Tensor = _StateProducts.apply(weights, eps, *(state.detach() for state in states))  # type: ignore[no-untyped-call]
    return product


class _StateProducts(torch.autograd.Function):
    """Autograd would keep the states in float32, and normalised once more, for every layer and mask."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, eps: float | None, *states: Tensor) -> Tensor:
        products, means, scales = [], [], []
        for some in _together(states):
            stack = _stack(states[some])
            if eps is None:
                products.append(stack.to(weights.dtype) @ weights[some].mT)
                continue
            variance, mean = torch.var_mean(stack.to(weights.dtype), -1, correction=0, keepdim=True)
            scale = torch.rsqrt(variance + eps)
            products.append((_centred(stack, mean, weights.dtype) @ weights[some].mT).mul_(scale))
            means.append(mean)
            scales.append(scale)
        ctx.dtype, ctx.normed, ctx.shape = weights.dtype, eps is not None, weights.shape
        ctx.save_for_backward(*states, *means, *scales)
        found: Tensor = torch.cat(products).unflatten(1, states[0].shape[:-1])
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        count = ctx.shape[0]
        states, rest = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        means, scales = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        grad, found = grad.flatten(1, -2), []
        for number, some in enumerate(_together(states)):
            part, mean = grad[some], means[number] if ctx.normed else None
            part = part * scales[number] if ctx.normed else part
            found.append(part.mT @ _centred(_stack(states[some]), mean, ctx.dtype))
        return torch.cat(found), None, *(None for _ in range(count))


def _together(states: Sequence[Tensor]) -> Iterator[slice]:
    """Which layers are worked on at once: all that fit on a device, one on a CPU, whose caches are small."""
    first = states[0]
    count = 1 if first.device.type == "cpu" else max(1, _AT_ONCE // max(1, first.numel()))
    for start in range(0, len(states), count):
        yield slice(start, start + count)


def _stack(states: Sequence[Tensor]) -> Tensor:
    """[layers, tokens, hidden]; no copy of a single layer."""
    if len(states) == 1:
        return states[0].flatten(0, -2)[None]
    return torch.stack([state.flatten(0, -2) for state in states])


def _centred(states: Tensor, mean: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The states in a dtype, without their mean, which is taken off first because outliers are large."""
    return states.to(dtype) if mean is None else states - mean
