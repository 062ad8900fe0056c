"""Shapes and number formats of the products between hidden states and a head, on GPU and CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

# Elements of a tile of logits. A GPU needs large products to be busy; a CPU's caches hold small ones, and
# memory that is taken anew for every temporary costs it more than an exponential.
TILE = {"cuda": 1 << 26, "cpu": 1 << 20}
# Rows and columns of a GPU's tiles are multiples of this: its kernels work in blocks of 128 or 256, and want
# rows of memory to begin at multiples of 16 bytes.
ALIGN = {"cuda": 256, "cpu": 1}
_FEWEST = 64  # columns of a slice


def logits_to_keep() -> int:
    """How many logits a CPU may keep two exponentials of; from its memory as a whole, so that runs agree."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(max(memory // 32 // 8, 1 << 25), 1 << 28))


def align(device: torch.device | str) -> int:
    """What the sides of a tile are multiples of, on a device or a kind of device."""
    return ALIGN.get(torch.device(device).type, 1)


def slices(count: int, vocab: int, device: torch.device | str) -> list[slice]:
    """The vocabulary in parts, so that a tile of ``count`` rows has about TILE elements."""
    size = max(_FEWEST, _tile(device) // max(count, 1))
    return _parts(vocab, _rounded(size, align(device)))


def row_blocks(count: int, vocab: int, device: torch.device | str) -> list[slice]:
    """Rows in parts, so that a tile of whole rows has about TILE elements; one empty part of no rows."""
    size = max(1, _tile(device) // vocab)
    return _parts(count, _rounded(size, align(device))) or [slice(0, 0)]


def _tile(device: torch.device | str) -> int:
    return TILE.get(torch.device(device).type, TILE["cpu"])


def _rounded(size: int, unit: int) -> int:
    """Down to a multiple, but not to none."""
    return max(unit, size // unit * unit)


def _parts(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def aligned(rows: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty [rows, width] whose rows of memory are as long as the next multiple of the alignment."""
    unit = align(device)
    return torch.empty(rows, -(-width // unit) * unit, dtype=dtype, device=device)[:, :width]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What statistics are computed in: float32 or better."""
    return torch.promote_types(torch.float32, dtype)


def narrowest(*dtypes: torch.dtype | None) -> torch.dtype:
    """The narrowest of the formats given: products take it, as autocast would have them do."""
    return min((d for d in dtypes if d is not None), key=lambda dtype: torch.finfo(dtype).bits)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in float32 or better, whatever the factors' dtype."""
    dtype = compute_dtype(left.dtype)
    out = aligned(left.shape[0], right.shape[1], dtype, left.device)
    if left.dtype == dtype:
        return torch.mm(left, right, out=out)
    return torch.mm(left, right, out_dtype=dtype, out=out)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to a total, in the total's dtype; nothing of its size is made."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif "dtype_out" in torch.ops.aten.addmm.overloads():
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += product(left, right)


def exact_in_bfloat16(narrow: bool) -> Any:
    """Within the context a CPU multiplies float32 matrices with its bfloat16 instructions, adding in float32.

    A product of values that are bfloat16 numbers, written in float32, loses nothing by it. A CPU that has no
    such instructions multiplies as ever.

    Args:
      narrow: whether the values are such; otherwise the context changes nothing.
    """
    settings = getattr(torch.backends.mkldnn, "matmul", None)
    if not narrow or not hasattr(settings, "fp32_precision"):
        return nullcontext()
    return _bfloat16_products(settings)


@contextmanager
def _bfloat16_products(settings: Any) -> Iterator[None]:
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before
