"""Attention over sequences of any length, in the form of a transformers attention function.

On CUDA, in half precision, flash-attention's kernel or the one that torch has of it; elsewhere one call of
scaled_dot_product_attention per sequence, or attention written out for who asks for eager attention.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sparsepo_plugin.adapters.prefix.eager import eager_attention
from sparsepo_plugin.adapters.prefix.spans import SpanMask, Spans

Heads = tuple[Tensor, Tensor, Tensor]


def varlen_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """softmax(q k scaling + mask) v over the sequences of a SpanMask; without one as sdpa does.

    As sdpa it leaves out soft-caps and sinks.

    Args:
      module: the attention module.
      query: [rows, heads, seq, size].
      key: [rows, key heads, seq, size].
      value: [rows, key heads, seq, value size].
      attention_mask: a SpanMask, or what sdpa takes.
      options: as transformers gives them.

    Returns:
      Output [rows, seq, heads, value size], and None for the weights.

    Raises:
      NotImplementedError: no kernel of this device computes what the model asks for.
    """
    if not isinstance(attention_mask, SpanMask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    kernel = _flash if query.is_cuda else _by_sdpa
    return _over_sequences(kernel, module, (query, key, value), attention_mask, _plain(options))


def varlen_flash_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """As varlen_attention, with soft-caps, as flash-attention does it."""
    if not isinstance(attention_mask, SpanMask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    kernel = _flash if query.is_cuda else _written_out
    return _over_sequences(kernel, module, (query, key, value), attention_mask, options)


def written_out_without_extras(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """What varlen_attention computes, written out."""
    return varlen_eager_attention(module, query, key, value, attention_mask, **_plain(options))


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("softcap", "s_aux")}


def varlen_eager_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """As varlen_attention, written out on every device."""
    if not isinstance(attention_mask, SpanMask):
        return eager_attention(module, query, key, value, attention_mask, **options)
    return _over_sequences(_written_out, module, (query, key, value), attention_mask, options)


def _over_sequences(
    kernel: Callable[..., Tensor], module: nn.Module, heads: Heads, mask: SpanMask, options: dict[str, Any]
) -> tuple[Tensor, None]:
    """Lay heads out as [tokens, heads, size], the prefix's keys twice, and the output back in rows."""
    spans, (rows, _, seq, _) = mask.spans, heads[0].shape
    query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in heads)
    asking = query if spans.queries is None else query.index_select(0, spans.queries)
    key, value = (part.index_select(0, spans.keys) for part in (key, value))
    output = kernel(module, (asking, key, value), mask, options)
    if spans.queries is not None:
        output = output.new_zeros(rows * seq, *output.shape[1:]).index_copy(0, spans.queries, output)
    return output.unflatten(0, (rows, seq)), None


def _sequences(heads: Heads, spans: Spans) -> list[Heads]:
    """Query, key and value of every sequence, [1, heads, tokens, size] each."""
    query, key, value = (part.transpose(0, 1)[None] for part in heads)
    return list(
        zip(
            query.split(spans.query_sizes, 2),
            key.split(spans.key_sizes, 2),
            value.split(spans.key_sizes, 2),
        )
    )


def _by_sdpa(module: nn.Module, heads: Heads, mask: SpanMask, options: dict[str, Any]) -> Tensor:
    if options.get("position_bias") is not None:
        raise NotImplementedError("attention over sequences: got a position bias, expected none")
    groups = heads[0].shape[1] // heads[1].shape[1]
    key, value = (part.repeat_interleave(groups, 1) if groups > 1 else part for part in heads[1:])
    parts = [
        functional.scaled_dot_product_attention(
            *sequence, attn_mask=seen, is_causal=seen is None, scale=options.get("scaling"),
            dropout_p=options.get("dropout", 0.0),
        )
        for sequence, seen in zip(_sequences((heads[0], key, value), mask.spans), mask.visible)
    ]  # fmt: skip
    return torch.cat(parts, 2)[0].transpose(0, 1)


def _written_out(module: nn.Module, heads: Heads, mask: SpanMask, options: dict[str, Any]) -> Tensor:
    outputs = []
    for sequence, seen in zip(_sequences(heads, mask.spans), mask.visible):
        query, key, _ = sequence
        if seen is None:
            seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril_()
        bias = torch.zeros_like(seen, dtype=query.dtype).masked_fill_(~seen, torch.finfo(query.dtype).min)
        outputs.append(eager_attention(module, *sequence, bias[None, None], **options)[0])
    return torch.cat(outputs, 1)[0]


def _flash(module: nn.Module, heads: Heads, mask: SpanMask, options: dict[str, Any]) -> Tensor:
    query, _, value = heads
    others = [name for name in ("s_aux", "position_bias") if options.get(name) is not None]
    others += [] if mask.function is None else ["a mask that is no sliding window"]
    if query.dtype not in (torch.float16, torch.bfloat16) or value.shape[-1] != query.shape[-1] or others:
        raise NotImplementedError(
            f"variable-length kernels: got {query.dtype}, head sizes {query.shape[-1]} and {value.shape[-1]}"
            f"{''.join(f', {name}' for name in others)}; expected half precision, equal sizes and no more"
        )
    scale = options.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    softcap, dropout = options.get("softcap"), options.get("dropout", 0.0)
    compute = _flash_attn if _flash_attn_is_there() else _torch_varlen
    return compute(heads, mask, scale, softcap, dropout)


@cache
def _flash_attn_is_there() -> bool:
    """Asked in every layer: a search of sys.path each time would cost more than the launches around it."""
    return importlib.util.find_spec("flash_attn") is not None


@cache
def _arguments(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _flash_attn(heads: Heads, mask: SpanMask, scale: float, softcap: float | None, dropout: float) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    spans = mask.spans
    window = (-1, -1) if mask.window is None else (mask.window - 1, 0)
    output: Tensor = flash_attn_varlen_func(
        *heads, spans.query_starts, spans.key_starts, max(spans.query_sizes), max(spans.key_sizes),
        dropout_p=dropout, softmax_scale=scale, causal=True, window_size=window, softcap=softcap or 0.0,
    )  # fmt: skip
    return output


def _torch_varlen(
    heads: Heads, mask: SpanMask, scale: float, softcap: float | None, dropout: float
) -> Tensor:
    """Torch's own copy of the kernel, whose arguments grew from version to version."""
    from torch.nn.attention.varlen import varlen_attn

    known, spans, (query, key, value) = _arguments(varlen_attn), mask.spans, heads
    options: dict[str, Any] = {}
    if softcap is not None or dropout:
        raise NotImplementedError("torch's variable-length kernel: got a soft-cap or dropout, expected none")
    if "window_size" in known:
        options["window_size"] = (-1 if mask.window is None else mask.window - 1, 0)
    elif mask.window is None:
        options["is_causal"] = True
    else:
        raise NotImplementedError("torch's variable-length kernel: got a sliding window, expected none here")
    if "scale" in known:
        options["scale"] = scale
    else:
        query = query * (scale * query.shape[-1] ** 0.5)
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and "enable_gqa" in known:
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    output: Any = varlen_attn(
        query.contiguous(), key.contiguous(), value.contiguous(), spans.query_starts, spans.key_starts,
        max(spans.query_sizes), max(spans.key_sizes), **options,
    )  # fmt: skip
    return output
