"""Arithmetic on tiles of logits as Triton kernels: one or two passes over memory where rows.py takes ten.

The products stay with cuBLAS. Triton is no requirement: without it, or without CUDA, rows.py does the work.
"""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from sparsepo_plugin.forward.head_weights import LogitMap
from sparsepo_plugin.forward.statistics.kl import entropy
from sparsepo_plugin.forward.statistics.rows import RowStatistics, Tile
from sparsepo_plugin.forward.statistics.shapes import aligned

_INSTALLED = importlib.util.find_spec("triton") is not None
_ROW_BLOCK, _SLICE_BLOCK = 4096, 1024


def usable(tensor: Tensor) -> bool:
    """Whether the kernels take this tensor: CUDA, float32 or less, Triton installed."""
    return _INSTALLED and tensor.is_cuda and tensor.dtype != torch.float64


def statistics(tile: Tile, targets: Tensor, with_kl: bool, with_entropy: bool = False) -> RowStatistics:
    """As rows.statistics; leaves the tile as it is. The entropy is computed in plain torch."""
    z, r = _readable(tile.policy), None if tile.reference is None else _readable(tile.reference)
    count, vocab = z.shape
    out = [torch.empty(count, dtype=torch.float32, device=z.device) for _ in range(5)]
    with _on(z):
        _kernels().statistics[(count,)](
            z, z if r is None else r, targets.contiguous(), *out, vocab, z.stride(0),
            (z if r is None else r).stride(0), REFERENCE=r is not None, KL=with_kl, BLOCK=_ROW_BLOCK,
        )  # fmt: skip
    logps, lse, reference_logps, reference_lse, kl = out
    entropies = entropy(z.float()) if with_entropy else None
    if r is None:
        return RowStatistics(logps, lse, None, None, None, entropies)
    return RowStatistics(logps, lse, reference_logps, reference_lse, kl if with_kl else None, entropies)


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
    z, r = _readable(tile.policy), None if tile.reference is None else _readable(tile.reference)
    # What autograd hands in may be expanded or transposed; the kernels read it as [n] side by side.
    by_logps, by_kl, z_lse, r_lse = (None if v is None else v.contiguous() for v in (*grads, *lse))
    with_kl = r is not None and by_kl is not None
    count, width = z.shape
    out = z if dtype == z.dtype else aligned(count, width, dtype, z.device)
    with _on(z):
        _kernels().slice_gradient[(count, -(-width // _SLICE_BLOCK))](
            z, r if with_kl else z, out, targets.contiguous(), z_lse, r_lse if with_kl else z_lse,
            by_logps, by_kl if with_kl else by_logps, start, width, z.stride(0),
            r.stride(0) if with_kl and r is not None else 0, out.stride(0),
            scale=logit_map.scale, cap=logit_map.cap or 1.0, CAPPED=logit_map.cap is not None, KL=with_kl,
            BLOCK=_SLICE_BLOCK,
        )  # fmt: skip
    return out


def _readable(tile: Tensor) -> Tensor:
    """A tile whose rows hold their columns side by side; itself where they do."""
    return tile if tile.stride(1) == 1 or tile.shape[1] == 1 else tile.contiguous()


def _on(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _kernels() -> Any:
    from sparsepo_plugin.forward.statistics import triton_kernels

    return triton_kernels
