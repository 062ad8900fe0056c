"""The kernels of triton_rows.py; importing this needs Triton."""
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803

from __future__ import annotations

import triton
import triton.language as tl

_LOW = tl.constexpr(-3.0e38)


@triton.jit
def _log_sum_exp(row, vocab, BLOCK: tl.constexpr):
    """Log normaliser of a row; every lane keeps its own maximum, so that only the end reduces."""
    lanes = tl.arange(0, BLOCK)
    top = tl.full([BLOCK], _LOW, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocab, BLOCK):
        columns = start + lanes
        z = tl.load(row + columns, mask=columns < vocab, other=float("-inf")).to(tl.float32)
        new = tl.maximum(top, z)
        total = total * tl.exp(top - new) + tl.exp(z - new)
        top = new
    highest = tl.max(top, 0)
    # A lane that saw nothing has top = _LOW, which takes its total out of the sum.
    return highest + tl.log(tl.sum(total * tl.exp(top - highest), 0))


@triton.jit
def _kl_term(x, log_q, log_p):
    """Q (expm1(x) - x): a series where the difference would cancel, p - q - q x where exp would overflow.

    Where q is 0 the term is p, also for entries that are -inf and leave no x.
    """
    p, q = tl.exp(log_p), tl.exp(log_q)
    square = x * x
    series = 1.0 / 720 + x * (1.0 / 5040 + x * (1.0 / 40320))
    series = 0.5 + x * (1.0 / 6 + x * (1.0 / 24 + x * (1.0 / 120 + x * series)))
    middle = tl.exp(tl.minimum(x, 1.0)) - 1.0 - x
    terms = q * tl.where(tl.abs(x) < 0.5, square * series, middle)
    return tl.where(q == 0.0, p, tl.where(x > 1.0, p - q - q * x, terms))


@triton.jit
def statistics(
    z, r, targets, logps, lse, reference_logps, reference_lse, kl, vocab, z_stride, r_stride,
    REFERENCE: tl.constexpr, KL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    z_row = z + row * z_stride
    z_lse = _log_sum_exp(z_row, vocab, BLOCK)
    tl.store(lse + row, z_lse)
    tl.store(logps + row, tl.load(z_row + target).to(tl.float32) - z_lse)
    if REFERENCE:
        r_row = r + row * r_stride
        r_lse = _log_sum_exp(r_row, vocab, BLOCK)
        tl.store(reference_lse + row, r_lse)
        tl.store(reference_logps + row, tl.load(r_row + target).to(tl.float32) - r_lse)
        if KL:
            lanes = tl.arange(0, BLOCK)
            total = tl.zeros([BLOCK], tl.float32)
            for start in range(0, vocab, BLOCK):
                columns = start + lanes
                valid = columns < vocab
                log_p = tl.load(z_row + columns, mask=valid, other=0.0).to(tl.float32)
                log_q = tl.load(r_row + columns, mask=valid, other=0.0).to(tl.float32)
                x = (log_p - log_q) - (z_lse - r_lse)
                term = _kl_term(x, log_q - r_lse, log_p - z_lse)
                total += tl.where(valid, term, 0.0)
            total = tl.sum(total, 0)
            # Not a maximum, which turns nan into 0.
            tl.store(kl + row, tl.where(total < 0.0, 0.0, total))


@triton.jit
def slice_gradient(
    z, r, out, targets, lse, reference_lse, grad_logps, grad_kl, first, width, z_stride, r_stride, out_stride,
    scale, cap, CAPPED: tl.constexpr, KL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row and block of the slice."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    valid = columns < width
    value = tl.load(z + row * z_stride + columns, mask=valid, other=0.0).to(tl.float32)
    by_logps = tl.load(grad_logps + row)
    p = tl.exp(value - tl.load(lse + row))
    if KL:
        by_kl = tl.load(grad_kl + row)
        other = tl.load(r + row * r_stride + columns, mask=valid, other=0.0).to(tl.float32)
        grad = (by_kl - by_logps) * p - by_kl * tl.exp(other - tl.load(reference_lse + row))
    else:
        grad = -by_logps * p
    grad += tl.where(first + columns == tl.load(targets + row), by_logps, 0.0)
    if CAPPED:
        grad *= scale * (1.0 - (value / cap) * (value / cap))
    else:
        grad *= scale
    tl.store(out + row * out_stride + columns, grad, mask=valid)
