"""Logits and labels to token statistics: label shift, gather, KL over the full vocabulary.

Everything is computed in max(float32, input dtype), on response positions only and in chunks, so that
no vocabulary-sized tensor besides the logits themselves and their gradient is ever held.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsepo_plugin.types import TokenStats

IGNORE_INDEX = -100
_CHUNK_ELEMENTS = 1 << 20


def token_stats(
    policy_logits: Tensor,
    reference_logits: Tensor | None,
    labels: Tensor,
    *,
    with_kl: bool = True,
) -> TokenStats:
    """Compute log-probabilities and KL(reference || policy) of every response token.

    Args:
      policy_logits: [rows, seq, vocab], unshifted, any float dtype.
      reference_logits: same shape, or None for losses that have no reference. Never receives a gradient.
      labels: token ids on response tokens and -100 elsewhere, [rows, seq], not shifted.
      with_kl: compute the token KL; it costs a pass over the vocabulary.

    Returns:
      TokenStats with tensors of shape [rows, seq - 1], zero outside the response.

    Raises:
      ValueError: shapes differ, or a KL is asked for without a reference.

    Source: arXiv 2410.05102, section 3; upstream ``sparse_trainer.py:get_batch_logps``.
    """
    _check_shapes(policy_logits, reference_logits, labels, with_kl)
    targets = labels[:, 1:]
    response_mask = targets != IGNORE_INDEX
    rows, positions = response_mask.nonzero(as_tuple=True)
    values = _TokenStatistics.apply(  # type: ignore[no-untyped-call]
        policy_logits,
        None if reference_logits is None else reference_logits.detach(),
        rows * labels.shape[1] + positions,
        targets[rows, positions],
        with_kl,
    )

    def spread(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        return value.new_zeros(targets.shape).index_put((rows, positions), value)

    policy_logps, reference_logps, token_kl = (spread(value) for value in values)
    assert policy_logps is not None
    return TokenStats(policy_logps, reference_logps, token_kl, response_mask)


def _check_shapes(policy: Tensor, reference: Tensor | None, labels: Tensor, with_kl: bool) -> None:
    if policy.ndim != 3 or policy.shape[:2] != labels.shape:
        raise ValueError(
            f"policy_logits must be [rows, seq, vocab] over labels [rows, seq]: "
            f"got {tuple(policy.shape)} and {tuple(labels.shape)}"
        )
    if reference is not None and reference.shape != policy.shape:
        raise ValueError(
            f"reference_logits must have the shape of policy_logits: "
            f"got {tuple(reference.shape)} and {tuple(policy.shape)}"
        )
    if with_kl and reference is None:
        raise ValueError("with_kl needs reference_logits: got None")


def _log_softmax(logits: Tensor) -> Tensor:
    """Log-softmax in max(float32, dtype), [n, vocab]; the maximum is taken off first, for accuracy."""
    compute = torch.promote_types(torch.float32, logits.dtype)
    return torch.log_softmax(logits.to(compute), dim=-1)


def kl_terms(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Terms of KL(q || p) = sum q (expm1(x) - x) with x = log p - log q; each is >= 0.

    The centred form differs from sum q (log q - log p) by sum p - sum q = 0, so the sum is the same, but
    rounding errors enter squared instead of linearly, and no term can be negative.

    Args:
      log_p: log-probabilities of the policy, [..., vocab]; -inf is allowed.
      log_q: log-probabilities of the reference, same shape; -inf is allowed.

    Returns:
      Same shape, nats. Entries that are -inf in both contribute 0.
    """
    x = log_p - log_q
    p, q = log_p.exp(), log_q.exp()
    # expm1(x) - x loses relative accuracy eps/|x|, its Taylor series x^2/12: equal at (24 eps)^(1/3).
    small = (24 * torch.finfo(x.dtype).eps) ** (1 / 3)
    terms = torch.where(x.abs() < small, x * x * (0.5 + x / 6), torch.expm1(x) - x) * q
    # For large x expm1 overflows although q expm1(x) = p - q is at most 1.
    terms = torch.where(x > 1, p - q - q * x, terms)
    return torch.where(q == 0, p, terms)


class _TokenStatistics(torch.autograd.Function):
    """(log pi(y), log ref(y), KL(ref || pi)) at given positions, with an exact recomputing backward.

    d log pi(y) / d logits = onehot(y) - p;  d KL(q || p) / d logits = p - q.
    """

    @staticmethod
    def forward(
        ctx: Any,
        policy_logits: Tensor,
        reference_logits: Tensor | None,
        index: Tensor,
        targets: Tensor,
        with_kl: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        ctx.save_for_backward(policy_logits, reference_logits, index, targets)
        ctx.with_kl = with_kl
        vocab = policy_logits.shape[-1]
        policy = policy_logits.reshape(-1, vocab)
        compute = torch.promote_types(torch.float32, policy_logits.dtype)
        policy_logps = policy.new_zeros(len(index), dtype=compute)
        reference_logps = None if reference_logits is None else torch.zeros_like(policy_logps)
        token_kl = torch.zeros_like(policy_logps) if with_kl else None
        for part in _chunks(len(index), vocab):
            log_p = _log_softmax(policy[index[part]])
            policy_logps[part] = log_p.gather(-1, targets[part, None]).squeeze(-1)
            if reference_logits is None or reference_logps is None:
                continue
            log_q = _log_softmax(reference_logits.reshape(-1, vocab)[index[part]])
            reference_logps[part] = log_q.gather(-1, targets[part, None]).squeeze(-1)
            if token_kl is not None:
                token_kl[part] = kl_terms(log_p, log_q).sum(-1)
        if reference_logps is not None:
            ctx.mark_non_differentiable(reference_logps)
        return policy_logps, reference_logps, token_kl

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_logps: Tensor, _: Tensor | None, grad_kl: Tensor | None
    ) -> tuple[Tensor, None, None, None, None]:
        policy_logits, reference_logits, index, targets = ctx.saved_tensors
        vocab = policy_logits.shape[-1]
        policy = policy_logits.reshape(-1, vocab)
        grad = torch.zeros_like(policy)
        for part in _chunks(len(index), vocab):
            p = _log_softmax(policy[index[part]]).exp()
            g = -grad_logps[part, None] * p
            g.scatter_add_(-1, targets[part, None], grad_logps[part, None])
            if ctx.with_kl and grad_kl is not None:
                q = _log_softmax(reference_logits.reshape(-1, vocab)[index[part]]).exp()
                g += grad_kl[part, None] * (p - q)
            grad[index[part]] = g.to(grad.dtype)
        return grad.view_as(policy_logits), None, None, None, None


def _chunks(count: int, vocab: int) -> list[slice]:
    size = max(1, _CHUNK_ELEMENTS // vocab)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
