"""A kernel's gradients, compared with those of attention written out, while a model is probed.

Compiled kernels have other code for training than for inference, and a backward pass that may fail where the
forward pass does not. The check runs inside the attention function, on heads cut off from the model, so that
no engine around the model sees a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_TOLERANCE: ContextVar[float | None] = ContextVar("gradient_tolerance", default=None)
Attention = Callable[..., tuple[Tensor, Any]]


@contextmanager
def checking_gradients(tolerance: float) -> Iterator[None]:
    """Within the context every checked kernel's gradients must be those of attention written out.

    Args:
      tolerance: relative error of a gradient as a whole.
    """
    token = _TOLERANCE.set(tolerance)
    try:
        yield
    finally:
        _TOLERANCE.reset(token)


def checked(kernel: Attention, written_out: Attention) -> Attention:
    """An attention function that, where gradients are checked, compares its own with another's.

    Args:
      kernel: what is run.
      written_out: the same in plain torch; takes the same mask, or FlexAttention's as numbers to add.
    """

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
    ) -> tuple[Tensor, Any]:
        tolerance = _TOLERANCE.get()
        if tolerance is not None:
            heads = query, key, value
            got = _gradients(kernel, module, heads, attention_mask, options)
            expected = _gradients(written_out, module, heads, _as_numbers(attention_mask, query), options)
            for name, one, other in zip(("query", "key", "value"), got, expected):
                size = other.double().norm().clamp(min=torch.finfo(torch.float32).tiny)
                error = float((one.double() - other.double()).norm() / size)
                if not error <= tolerance:
                    raise RuntimeError(f"the kernel's gradient by {name} is off by {error:.1e} of its size")
        return kernel(module, query, key, value, attention_mask, **options)

    return attention


def _gradients(
    kernel: Attention, module: Any, heads: tuple[Tensor, ...], mask: Any, options: dict[str, Any]
) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = [part.detach().clone().requires_grad_() for part in heads]
        output = kernel(module, *leaves, mask, **options)[0]
        # Every entry enters with another weight.
        weights = torch.linspace(-1, 1, output.shape[-1], device=output.device, dtype=output.dtype)
        return torch.autograd.grad((output * weights).sum(), leaves)


def _as_numbers(mask: Any, query: Tensor) -> Any:
    """A FlexAttention mask as numbers to add, [rows, 1, seq, seq]; anything else as it is."""
    if not hasattr(mask, "mask_mod"):
        return mask
    rows, _, seq, _ = query.shape
    positions = torch.arange(seq, device=query.device)
    row = torch.arange(rows, device=query.device)[:, None, None, None]
    seen = mask.mask_mod(row, torch.zeros_like(row), positions[:, None], positions).expand(rows, 1, seq, seq)
    return torch.zeros_like(seen, dtype=query.dtype).masked_fill_(~seen, torch.finfo(query.dtype).min)
