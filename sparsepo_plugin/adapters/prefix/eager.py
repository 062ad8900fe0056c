"""Attention written out, with everything that models ask of an attention function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """softmax(cap(q k scaling) + mask) v, in the form of a transformers attention function.

    Models hold this function themselves and use it under the name "eager" alone, hence one of our own.

    Args:
      module: the attention module; its training mode switches dropout.
      query: [rows, heads, seq, size].
      key: [rows, key heads, seq, size]; a key head serves heads / key heads query heads.
      value: [rows, key heads, seq, value size].
      attention_mask: added to the scores, [rows, 1, seq, seq].
      scaling: of the scores; by default size ** -0.5.
      dropout: probability of dropping a weight.
      softcap: bounds the scores by c tanh(score / c).
      s_aux: attention sinks: one more score per head, which takes weight and has no value; [heads].
      position_bias: added to the scores as well.

    Returns:
      Output [rows, seq, heads, value size], weights [rows, heads, seq, seq].
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    for bias in (position_bias, attention_mask):
        scores = scores if bias is None else scores + bias
    if s_aux is not None:
        sinks = s_aux.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks.to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = weights[..., : key.shape[2]]
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights
