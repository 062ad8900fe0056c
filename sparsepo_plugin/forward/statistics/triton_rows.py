"""Arithmetic on tiles of logits as Triton kernels: one or two passes over memory where rows.py takes ten.

The products stay with cuBLAS. Triton is no requirement: without it, or without CUDA, rows.py does the work.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from sparsepo_plugin.forward.head_weights import LogitMap
from sparsepo_plugin.forward.statistics.rows import RowStatistics, Tile

_INSTALLED = importlib.util.find_spec("triton") is not None
_ROW_BLOCK, _SLICE_BLOCK = 4096, 1024


def usable(tensor: Tensor) -> bool:
    """Whether the kernels take this tensor: CUDA, float32 or less, Triton installed."""
    return _INSTALLED and tensor.is_cuda and tensor.dtype != torch.float64


def statistics(tile: Tile, targets: Tensor, with_kl: bool) -> RowStatistics:
    """As rows.statistics; leaves the tile as it is."""
    z, r = tile
    count, vocab = z.shape
    out = [torch.empty(count, device=z.device) for _ in range(5)]
    _kernels().statistics[(count,)](
        z, z if r is None else r, targets, *out, vocab, z.stride(0), (z if r is None else r).stride(0),
        REFERENCE=r is not None, KL=with_kl, BLOCK=_ROW_BLOCK,
    )  # fmt: skip
    logps, lse, reference_logps, reference_lse, kl = out
    if r is None:
        return RowStatistics(logps, lse, None, None, None)
    return RowStatistics(logps, lse, reference_logps, reference_lse, kl if with_kl else None)


def slice_gradient(
    tile: Tile,
    lse: tuple[Tensor, Tensor | None],
    targets: Tensor,
    start: int,
    grads: tuple[Tensor, Tensor | None],
    logit_map: LogitMap,
    dtype: torch.dtype,
) -> Tensor:
    """As rows.slice_gradient."""
    z, r = tile
    grad_logps, grad_kl = grads
    with_kl = r is not None and grad_kl is not None
    count, width = z.shape
    out = z if dtype == z.dtype else torch.empty_like(z, dtype=dtype)
    _kernels().slice_gradient[(count, -(-width // _SLICE_BLOCK))](
        z, r if with_kl else z, out, targets, lse[0], lse[1] if with_kl else lse[0],
        grad_logps, grad_kl if with_kl else grad_logps, start, width, z.stride(0),
        r.stride(0) if with_kl and r is not None else 0, out.stride(0),
        scale=logit_map.scale, cap=logit_map.cap or 1.0, CAPPED=logit_map.cap is not None, KL=with_kl,
        BLOCK=_SLICE_BLOCK,
    )  # fmt: skip
    return out


def _kernels() -> Any:
    from sparsepo_plugin.forward.statistics import triton_kernels

    return triton_kernels
