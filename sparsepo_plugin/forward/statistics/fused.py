"""(log pi(y), log ref(y), KL(ref || pi)) per token from hidden states and heads, with an exact backward.

The forward pass goes through the tokens in chunks of whole rows (CUDA) or through the vocabulary in slices
(CPU); the backward pass goes through the vocabulary in slices and computes the logits again, so that a slice
of the head's gradient is one product and nothing of size [tokens, vocab] is ever held. Where all of it is
small, probabilities are kept instead.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.forward.head_weights import HeadWeights, LogitMap
from sparsepo_plugin.forward.statistics import rows as plain_rows
from sparsepo_plugin.forward.statistics import triton_rows
from sparsepo_plugin.forward.statistics.reference import TokenValues
from sparsepo_plugin.forward.statistics.rows import Probabilities, RowStatistics, Tile
from sparsepo_plugin.forward.statistics.slices import RunningStatistics

_UNCHANGED = LogitMap()
# Elements of a tile. A GPU needs large products to be busy; a CPU's caches hold small ones.
TILE = {"cuda": 1 << 26, "cpu": 1 << 22}
# Rows whose normalisers' difference was guessed worse than this, in nats, are computed again from whole rows:
# what is taken off their KL would leave its rounding behind.
GUESS = 1.0
# Up to here the probabilities are kept for the backward pass, which then need not compute the logits again.
KEEP = 1 << 25


class ReferenceRows(NamedTuple):
    """The reference's part of the statistics.

    Attributes:
      hidden: final hidden states at the same positions, [n, hidden of the reference]; no gradient.
      weights: opens the reference's head; called once in the forward and once in the backward pass.
      logit_map: what the reference does after its head.
      collective: opening the head is an act of all processes, so that each must do it equally often.
    """

    hidden: Tensor
    weights: Callable[[], AbstractContextManager[HeadWeights]]
    logit_map: LogitMap = _UNCHANGED
    collective: bool = False


def fused_statistics(
    hidden: Tensor,
    head: HeadWeights,
    targets: Tensor,
    reference: ReferenceRows | None = None,
    *,
    with_kl: bool = False,
    logit_map: LogitMap = _UNCHANGED,
) -> TokenValues:
    """Compute token statistics of the given positions.

    Products take the parameters' dtype and give float32 (float64 for float64 input); everything else is
    done in float32 or better. On CPU, low-precision heads are converted to float32 for the call.

    Args:
      hidden: the policy's final hidden states at the positions that predict the targets, [n, hidden].
      head: the policy's output head; its gradients are computed where it requires them.
      targets: token ids, [n].
      reference: the reference's states and head, or None.
      with_kl: also KL(reference || policy).
      logit_map: what the policy does after its head.

    Raises:
      ValueError: shapes do not fit, or a KL is asked for without a reference.

    Source: arXiv 2410.05102, section 3, for the statistics; token_stats.py for the same from logits.
    """
    _check(hidden, head, targets, reference, with_kl)
    found = _Fused.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, targets, reference, with_kl, logit_map
    )
    return TokenValues(*found)


def _check(
    hidden: Tensor, head: HeadWeights, targets: Tensor, reference: ReferenceRows | None, with_kl: bool
) -> None:
    if hidden.ndim != 2 or hidden.shape[1] != head.weight.shape[1] or targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"expected hidden [n, h], head [vocab, h] and targets [n]: got {tuple(hidden.shape)}, "
            f"{tuple(head.weight.shape)} and {tuple(targets.shape)}"
        )
    if reference is not None and len(reference.hidden) != len(hidden):
        raise ValueError(
            f"reference.hidden must have the rows of hidden: got {len(reference.hidden)} and {len(hidden)}"
        )
    if with_kl and reference is None:
        raise ValueError("with_kl needs a reference: got None")


class _Side(NamedTuple):
    """One model's states and head, ready for products."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    logit_map: LogitMap

    def tile(self, tokens: slice, tokens_of_vocabulary: slice) -> Tensor:
        """Mapped logits of some positions and some of the vocabulary, in max(float32, dtype)."""
        weight = self.weight[tokens_of_vocabulary]
        logits = _product(self.hidden[tokens], weight.t())
        if self.bias is not None:
            logits += self.bias[tokens_of_vocabulary]
        return self.logit_map.apply_(logits)


def _side(hidden: Tensor, head: HeadWeights, logit_map: LogitMap) -> _Side:
    compute = _compute_dtype(hidden.dtype)
    weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach().to(compute)
    if hidden.device.type == "cpu":
        # A CPU rounds the result of a bfloat16 product to bfloat16: 3 digits of a logit.
        return _Side(hidden.detach().to(compute), weight.to(compute), bias, logit_map)
    # Under autocast one of them is wide: products take the narrower type, as the head itself would.
    narrow = min((hidden.dtype, weight.dtype), key=lambda dtype: torch.finfo(dtype).bits)
    return _Side(hidden.detach().to(narrow), weight.to(narrow), bias, logit_map)


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(torch.float32, dtype)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in float32 or better, whatever the factors' dtype."""
    compute = _compute_dtype(left.dtype)
    if left.dtype == compute:
        return left @ right
    return torch.mm(left, right, out_dtype=compute)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        reference: ReferenceRows | None,
        with_kl: bool,
        logit_map: LogitMap,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        policy = _side(hidden, HeadWeights(weight, bias), logit_map)
        ctx.set_materialize_grads(False)
        ctx.reference, ctx.with_kl, ctx.logit_map, ctx.kept = reference, with_kl, logit_map, None
        wanted = any(ctx.needs_input_grad[:3])
        small = logit_map.cap is None and len(hidden) * len(weight) <= KEEP
        keep = wanted and small and not (reference is not None and reference.collective)
        if reference is None:
            found, ctx.kept = _forward(policy, None, targets, with_kl, keep)
        else:
            with reference.weights() as head:
                other = _side(reference.hidden, head, reference.logit_map)
                found, ctx.kept = _forward(policy, other, targets, with_kl, keep)
        ctx.save_for_backward(hidden, weight, bias, targets, found.lse, found.reference_lse)
        if found.reference_logps is not None:
            ctx.mark_non_differentiable(found.reference_logps)
        return found.logps, found.reference_logps, found.kl

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_logps: Tensor | None, _: Tensor | None, grad_kl: Tensor | None) -> Any:
        hidden, weight, bias, targets, lse, reference_lse = ctx.saved_tensors
        grads = (torch.zeros_like(lse) if grad_logps is None else grad_logps, grad_kl)
        sums = _Gradients(hidden, weight, bias, ctx.needs_input_grad)
        if ctx.kept is not None:
            grad = plain_rows.gradient(ctx.kept, targets, 0, *grads).mul_(ctx.logit_map.scale)
            ctx.kept = None
            sums.add(grad, slice(0, len(weight)))
            return *sums.result(), None, None, None, None
        policy = _side(hidden, HeadWeights(weight, bias), ctx.logit_map)
        if grad_kl is None:
            _backward(policy, None, (lse, None), targets, grads, sums)
        else:
            with ctx.reference.weights() as head:
                other = _side(ctx.reference.hidden, head, ctx.reference.logit_map)
                _backward(policy, other, (lse, reference_lse), targets, grads, sums)
        return *sums.result(), None, None, None, None


def _kernels(tensor: Tensor) -> Any:
    """The arithmetic on tiles: one pass over memory where Triton can run, plain torch elsewhere."""
    return triton_rows if triton_rows.usable(tensor) else plain_rows


def _forward(
    policy: _Side, reference: _Side | None, targets: Tensor, with_kl: bool, keep: bool
) -> tuple[RowStatistics, Probabilities | None]:
    kernels = plain_rows if keep else _kernels(policy.hidden)
    if not keep and kernels is plain_rows and policy.hidden.device.type == "cpu":
        return _by_slices(policy, reference, targets, with_kl), None
    return _by_rows(policy, reference, targets, with_kl, kernels, keep)


def _by_slices(policy: _Side, reference: _Side | None, targets: Tensor, with_kl: bool) -> RowStatistics:
    """All rows, one slice of the vocabulary after the other."""
    like = policy.hidden.new_empty(0, dtype=_compute_dtype(policy.hidden.dtype))
    running = RunningStatistics(targets, like, with_reference=reference is not None, with_kl=with_kl)
    everything = slice(0, len(targets))
    for part in _slices(len(targets), len(policy.weight), policy.hidden):
        tile = Tile(
            policy.tile(everything, part), None if reference is None else reference.tile(everything, part)
        )
        running.add(tile, part.start)
    found, off = running.result()
    # Written so that nan, too, is computed again.
    bad = None if off is None else torch.nonzero(~(off.abs() <= GUESS)).squeeze(1)
    if bad is None or not len(bad) or reference is None:
        return found
    sides = [side._replace(hidden=side.hidden[bad]) for side in (policy, reference)]
    again, _ = _by_rows(sides[0], sides[1], targets[bad], with_kl, plain_rows, keep=False)
    columns: list[Any] = [
        None if whole is None or part is None else whole.index_copy(0, bad, part)
        for whole, part in zip(found, again)
    ]
    return RowStatistics(*columns)


def _slices(count: int, vocab: int, like: Tensor) -> list[slice]:
    """The vocabulary in parts, so that a tile of ``count`` rows has about TILE elements."""
    size = max(64, TILE.get(like.device.type, TILE["cpu"]) // max(count, 1))
    return [slice(start, min(start + size, vocab)) for start in range(0, vocab, size)]


def _by_rows(
    policy: _Side, reference: _Side | None, targets: Tensor, with_kl: bool, kernels: Any, keep: bool
) -> tuple[RowStatistics, Probabilities | None]:
    """Whole rows, some at a time; all at once where their probabilities are kept."""
    count, vocab = len(targets), len(policy.weight)
    size = count if keep else max(1, TILE.get(policy.hidden.device.type, TILE["cpu"]) // vocab)
    parts: list[RowStatistics] = []
    kept: Probabilities | None = None
    everything = slice(0, vocab)
    for start in range(0, max(count, 1), max(size, 1)):
        tokens = slice(start, min(start + size, count))
        tile = Tile(
            policy.tile(tokens, everything), None if reference is None else reference.tile(tokens, everything)
        )
        parts.append(kernels.statistics(tile, targets[tokens], with_kl))
        if keep:
            kept = plain_rows.probabilities(tile, parts[-1])
    return _joined(parts), kept


def _joined(parts: list[RowStatistics]) -> RowStatistics:
    columns: list[Any] = [None if column[0] is None else torch.cat(column) for column in zip(*parts)]
    return RowStatistics(*columns)


def _backward(
    policy: _Side,
    reference: _Side | None,
    lse: tuple[Tensor, Tensor | None],
    targets: Tensor,
    grads: tuple[Tensor, Tensor | None],
    sums: _Gradients,
) -> None:
    kernels, tokens = _kernels(policy.hidden), slice(0, len(targets))
    for part in _slices(len(targets), len(policy.weight), policy.hidden):
        tile = Tile(policy.tile(tokens, part), None if reference is None else reference.tile(tokens, part))
        grad = kernels.slice_gradient(tile, lse, targets, part.start, grads, policy.logit_map, sums.dtype)
        sums.add(grad, part)


class _Gradients:
    """Gradients of hidden states, weight and bias, added up slice by slice of the vocabulary."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: tuple[bool, ...]) -> None:
        compute = _compute_dtype(hidden.dtype)
        self._states, self._matrix, self._result = hidden.detach(), weight.detach(), hidden.dtype
        # A GPU multiplies in the parameters' dtype and adds up in float32; a CPU would round the result.
        narrow = min((hidden.dtype, weight.dtype), key=lambda dtype: torch.finfo(dtype).bits)
        self.dtype = compute if hidden.device.type == "cpu" else narrow
        self._hidden = hidden.new_zeros(hidden.shape, dtype=compute) if needed[0] else None
        self._weight = torch.empty_like(weight) if needed[1] else None
        self._bias = None if bias is None or not needed[2] else torch.empty_like(bias)

    def add(self, grad: Tensor, part: slice) -> None:
        """Add what the raw logits' gradient of a slice, [n, slice], gives."""
        grad = grad.to(self.dtype)
        if self._hidden is not None:
            self._hidden += _product(grad, self._matrix[part].to(self.dtype))
        if self._weight is not None:
            self._weight[part] = _product(grad.t(), self._states.to(self.dtype))
        if self._bias is not None:
            self._bias[part] = grad.sum(0, dtype=_compute_dtype(grad.dtype))

    def result(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients in the dtypes of what they belong to."""
        hidden = None if self._hidden is None else self._hidden.to(self._result)
        return hidden, self._weight, self._bias
