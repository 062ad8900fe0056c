"""(log pi(y), log ref(y), KL(ref || pi)) per token from hidden states and heads, with an exact backward.

The forward pass goes through the tokens in blocks of whole rows (CUDA) or through the vocabulary in slices
(CPU); the backward pass goes through the vocabulary in slices and computes the logits again, so that a slice
of the head's gradient is one product and nothing of size [tokens, vocab] is ever held. Where a CPU has the
memory, exponentials are kept instead.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.forward.head_weights import HeadWeights, LogitMap
from sparsepo_plugin.forward.statistics import rows as plain_rows
from sparsepo_plugin.forward.statistics import shapes, triton_rows
from sparsepo_plugin.forward.statistics.reference import TokenValues
from sparsepo_plugin.forward.statistics.rows import RowStatistics
from sparsepo_plugin.forward.statistics.sides import Gradients, Side, both
from sparsepo_plugin.forward.statistics.slices import Exponentials, RunningStatistics

_UNCHANGED = LogitMap()
# Rows whose normalisers' difference was guessed worse than this, in nats, are computed again from whole rows:
# what is taken off their KL would leave its rounding behind.
GUESS = 1.0
# Up to so many logits a CPU keeps the exponentials of both models for the backward pass, which then need not
# compute the logits again: 8 bytes a logit in float32, at most a 32nd of the machine's memory.
KEEP = shapes.logits_to_keep()


class ReferenceRows(NamedTuple):
    """The reference's part of the statistics.

    Attributes:
      hidden: final hidden states at the same positions, [n, hidden of the reference]; no gradient.
      weights: opens the reference's head; called once in the forward and once in the backward pass.
      logit_map: what the reference does after its head.
      collective: opening the head is an act of all processes, so that each must do it equally often.
      dtype: what autocast multiplied in when the reference ran, or None.
    """

    hidden: Tensor
    weights: Callable[[], AbstractContextManager[HeadWeights]]
    logit_map: LogitMap = _UNCHANGED
    collective: bool = False
    dtype: torch.dtype | None = None

    def side(self, head: HeadWeights) -> Side:
        """States and the opened head, ready for products."""
        return Side.of(self.hidden, head, self.logit_map, self.dtype)


def fused_statistics(
    hidden: Tensor,
    head: HeadWeights,
    targets: Tensor,
    reference: ReferenceRows | None = None,
    *,
    with_kl: bool = False,
    with_entropy: bool = False,
    logit_map: LogitMap = _UNCHANGED,
    dtype: torch.dtype | None = None,
) -> TokenValues:
    """Compute token statistics of the given positions.

    Products take the narrowest of the dtypes of states, head and autocast, and give float32 (float64 for
    float64 input); everything else is done in float32 or better.

    Args:
      hidden: the policy's final hidden states at the positions that predict the targets, [n, hidden].
      head: the policy's output head; its gradients are computed where it requires them.
      targets: token ids, [n].
      reference: the reference's states and head, or None.
      with_kl: also KL(reference || policy).
      with_entropy: also the policy's entropy, which gets no gradient.
      logit_map: what the policy does after its head.
      dtype: what autocast multiplied in when the policy ran; None where it ran without.

    Raises:
      ValueError: shapes do not fit, or a KL is asked for without a reference.

    Source: arXiv 2410.05102, section 3, for the statistics; reference.py for the same from logits.
    """
    _check(hidden, head, targets, reference, with_kl)
    found = _Fused.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, targets, reference, (with_kl, with_entropy), logit_map, dtype
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


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        reference: ReferenceRows | None,
        asked: tuple[bool, bool],
        logit_map: LogitMap,
        dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        policy = Side.of(hidden, HeadWeights(weight, bias), logit_map, dtype)
        ctx.set_materialize_grads(False)
        ctx.reference, ctx.logit_map, ctx.dtype = reference, logit_map, dtype
        wanted = any(ctx.needs_input_grad[:3])
        small = logit_map.cap is None and len(hidden) * len(weight) <= KEEP
        kept: list[Exponentials] | None = [] if wanted and small and _by_slices(policy) else None
        if reference is not None and reference.collective:
            kept = None
        if reference is None:
            found = _forward(policy, None, targets, asked, kept)
        else:
            with reference.weights() as head:
                found = _forward(policy, reference.side(head), targets, asked, kept)
        ctx.kept = kept
        ctx.save_for_backward(hidden, weight, bias, targets, found.lse, found.reference_lse)
        constant = [value for value in (found.reference_logps, found.entropy) if value is not None]
        ctx.mark_non_differentiable(*constant)
        return found.logps, found.reference_logps, found.kl, found.entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_logps: Tensor | None, _: Tensor | None, grad_kl: Tensor | None, __: Tensor | None
    ) -> Any:
        hidden, weight, bias, targets, lse, reference_lse = ctx.saved_tensors
        grads = (torch.zeros_like(lse) if grad_logps is None else grad_logps, grad_kl)
        policy = Side.of(hidden, HeadWeights(weight, bias), ctx.logit_map, ctx.dtype)
        sums, rest = Gradients(policy, (hidden, weight, bias), ctx.needs_input_grad), (None,) * 5
        if ctx.kept is not None:
            kept, ctx.kept = ctx.kept, None
            _backward_of_kept(kept, policy, (lse, reference_lse), targets, grads, sums)
        elif grad_kl is None:
            _backward(policy, None, (lse, None), targets, grads, sums)
        else:
            with ctx.reference.weights() as head:
                _backward(policy, ctx.reference.side(head), (lse, reference_lse), targets, grads, sums)
        return *sums.result(), *rest


def _by_slices(policy: Side) -> bool:
    """Whether a forward pass goes through slices of the vocabulary instead of blocks of rows."""
    return policy.hidden.device.type == "cpu" and _kernels(policy.hidden) is plain_rows


def _kernels(tensor: Tensor) -> Any:
    """The arithmetic on tiles: one pass over memory where Triton can run, plain torch elsewhere."""
    return triton_rows if triton_rows.usable(tensor) else plain_rows


def _forward(
    policy: Side,
    reference: Side | None,
    targets: Tensor,
    asked: tuple[bool, bool],
    kept: list[Exponentials] | None,
) -> RowStatistics:
    """Statistics of all rows; ``asked`` says whether KL and entropy are among them."""
    if not _by_slices(policy):
        return _in_row_blocks(policy, reference, targets, asked)
    like = policy.hidden.new_empty(0, dtype=shapes.compute_dtype(policy.hidden.dtype))
    with_kl, with_entropy = asked
    running = RunningStatistics(
        targets, like, with_reference=reference is not None, with_kl=with_kl, with_entropy=with_entropy
    )
    everything = slice(0, len(targets))
    for part in shapes.slices(len(targets), len(policy.weight), policy.hidden.device):
        exponentials = running.add(both(policy, reference, everything, part), part.start)
        if kept is not None:
            kept.append(exponentials)
    found, off = running.result()
    if off is None or reference is None or found.kl is None:
        return found
    # Written so that nan, too, is computed again.
    bad = torch.nonzero(~(off.abs() <= GUESS) | found.kl.isnan()).squeeze(1)
    return _again(found, bad, policy, reference, targets) if len(bad) else found


def _again(
    found: RowStatistics, bad: Tensor, policy: Side, reference: Side, targets: Tensor
) -> RowStatistics:
    """Statistics in which some rows are computed from whole rows, in a form that knows no guess."""
    sides = [side._replace(hidden=side.hidden[bad]) for side in (policy, reference)]
    again = _in_row_blocks(sides[0], sides[1], targets[bad], (True, found.entropy is not None))
    columns: list[Any] = [
        None if whole is None or part is None else whole.index_copy(0, bad, part)
        for whole, part in zip(found, again)
    ]
    return RowStatistics(*columns)


def _in_row_blocks(
    policy: Side, reference: Side | None, targets: Tensor, asked: tuple[bool, bool]
) -> RowStatistics:
    """Whole rows, some at a time."""
    kernels, everything = _kernels(policy.hidden), slice(0, len(policy.weight))
    parts: list[RowStatistics] = []
    for tokens in shapes.row_blocks(len(targets), len(policy.weight), policy.hidden.device):
        tile = both(policy, reference, tokens, everything)
        parts.append(kernels.statistics(tile, targets[tokens], *asked))
    columns: list[Any] = [None if column[0] is None else torch.cat(column) for column in zip(*parts)]
    return RowStatistics(*columns)


def _backward(
    policy: Side,
    reference: Side | None,
    lse: tuple[Tensor, Tensor | None],
    targets: Tensor,
    grads: tuple[Tensor, Tensor | None],
    sums: Gradients,
) -> None:
    kernels, tokens = _kernels(policy.hidden), slice(0, len(targets))
    for part in shapes.slices(len(targets), len(policy.weight), policy.hidden.device):
        tile = both(policy, reference, tokens, part)
        grad = kernels.slice_gradient(tile, lse, targets, part.start, grads, policy.logit_map, sums.dtype)
        sums.add(grad, part)


def _backward_of_kept(
    kept: list[Exponentials],
    policy: Side,
    lse: tuple[Tensor, Tensor | None],
    targets: Tensor,
    grads: tuple[Tensor, Tensor | None],
    sums: Gradients,
) -> None:
    parts = shapes.slices(len(targets), len(policy.weight), policy.hidden.device)
    for exponentials, part in zip(kept, parts, strict=True):
        scales = [
            None if peak is None or total is None else (peak - total).exp_()
            for peak, total in zip(exponentials.peaks, lse)
        ]
        assert scales[0] is not None
        grad = plain_rows.gradient(exponentials.tile, (scales[0], scales[1]), targets - part.start, grads)
        sums.add(grad if policy.logit_map.scale == 1.0 else grad.mul_(policy.logit_map.scale), part)
