"""Functions that turn raw mask scores into masks: activations, sparsifying, floors, normalisation."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

# "rescale" and "znorm" read the whole response of a row; the others act on every value alone.
Activation = Literal["relu", "none", "sigmoid", "softplus", "rescale", "znorm"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


def activate(name: Activation, value: Tensor, response_mask: Tensor) -> Tensor:
    """Apply an activation.

    Args:
      name: one of ACTIVATIONS; "rescale" maps each row's response to [0, 1] by its minimum and maximum (1
        where they are equal), "znorm" subtracts the mean and divides by the standard deviation.
      value: raw scores, [..., rows, positions].
      response_mask: true on response tokens, same shape, bool.

    Returns:
      Same shape; finite wherever ``value`` is.
    """
    if name == "relu":
        return torch.relu(value)
    if name == "sigmoid":
        return torch.sigmoid(value)
    if name == "softplus":
        return functional.softplus(value)
    if name == "rescale":
        return rescale(value, response_mask)
    if name == "znorm":
        count = response_mask.sum(-1, keepdim=True).clamp(min=1)
        centred = value - torch.where(response_mask, value, 0.0).sum(-1, keepdim=True) / count
        variance = torch.where(response_mask, centred**2, 0.0).sum(-1, keepdim=True) / count
        # The floor keeps rows of one token or one value finite: they become 0.
        return centred * (variance + torch.finfo(value.dtype).eps).rsqrt()
    return value


def rescale(value: Tensor, response_mask: Tensor) -> Tensor:
    """Map each row's response linearly to [0, 1]; a row without contrast becomes 1, not NaN.

    A response of one token, or one on which all values agree, says nothing about which token matters: all
    of its tokens then weigh 1, as in TDPO.

    Args:
      value: [rows, positions].
      response_mask: true on response tokens, same shape, bool.

    Returns:
      Same shape, in [0, 1] on the response, 0 elsewhere.
    """
    infinity = float("inf")
    low = value.masked_fill(~response_mask, infinity).amin(-1, keepdim=True)
    high = value.masked_fill(~response_mask, -infinity).amax(-1, keepdim=True)
    flat = ~(high > low)
    span = torch.where(flat, 1.0, high - low)
    scaled = torch.where(flat, 1.0, (value - torch.where(flat, 0.0, low)) / span)
    return torch.where(response_mask, scaled, 0.0)


def binarise(score: Tensor) -> Tensor:
    """1 where the score is positive, else 0; the gradient passes straight through to the score."""
    return (score > 0).to(score.dtype) + (score - score.detach())


def keep_top(mask: Tensor, share: float, response_mask: Tensor) -> Tensor:
    """Keep the largest values of every response and set the others to 0, with a straight-through gradient.

    Args:
      mask: [rows, positions].
      share: part of the response tokens to keep, in (0, 1]; at least one token is kept.
      response_mask: true on response tokens, same shape, bool.
    """
    count = (response_mask.sum(-1, keepdim=True) * share).ceil().long().clamp(min=1)
    ranked = (
        mask.detach().masked_fill(~response_mask, -float("inf")).argsort(dim=-1, descending=True, stable=True)
    )
    kept = torch.arange(mask.shape[-1], device=mask.device) < count
    chosen = torch.zeros_like(response_mask).scatter(-1, ranked, kept) & response_mask
    return torch.where(chosen, mask, mask - mask.detach())


def to_mean_one(mask: Tensor, response_mask: Tensor) -> Tensor:
    """Divide by the mean over the response, so that beta keeps its meaning; an all-zero row stays zero."""
    total = torch.where(response_mask, mask, 0.0).sum(-1, keepdim=True)
    count = response_mask.sum(-1, keepdim=True)
    return mask * count / torch.where(total > 0, total, 1.0)
