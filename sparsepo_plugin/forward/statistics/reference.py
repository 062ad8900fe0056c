"""The reference implementation: logits and labels to token statistics, by label shift, gather and full KL.

Trainers run it where a model does not allow the fast paths beside it (``rows``, ``slices``,
``triton_kernels``), and tests hold those to it: tests/fused (values and every gradient), tests/property
(gradcheck), tests/golden (the released code). When the formula changes, CONTRIBUTING.md lists what to touch
besides ``kl.py``.

Everything is computed in max(float32, input dtype), on response positions only and in chunks, so that
no vocabulary-sized tensor besides the logits themselves and their gradient is ever held.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.forward.head_weights import LogitMap
from sparsepo_plugin.forward.statistics.kl import entropy, kl_terms
from sparsepo_plugin.types import TokenStats

IGNORE_INDEX = -100
# Logits of a chunk: a CPU's caches hold so many, and a GPU is busy for longer than a launch takes.
_CHUNK_ELEMENTS = {"cuda": 1 << 26, "cpu": 1 << 20}


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
    index = rows * labels.shape[1] + positions
    reference = None if reference_logits is None else reference_logits.flatten(0, 1)
    found = statistics_at(
        policy_logits.flatten(0, 1), reference, index, index, targets[rows, positions], with_kl=with_kl
    )
    return spread(found, response_mask, (rows, positions))


class TokenValues(NamedTuple):
    """Statistics of single tokens, each [n], nats; None where nothing was asked for."""

    policy_logps: Tensor
    reference_logps: Tensor | None
    token_kl: Tensor | None
    entropy: Tensor | None = None


def statistics_at(
    policy_logits: Tensor,
    reference_logits: Tensor | None,
    policy_index: Tensor,
    reference_index: Tensor,
    targets: Tensor,
    *,
    with_kl: bool,
    with_entropy: bool = False,
) -> TokenValues:
    """Statistics of chosen rows of two tables of logits.

    Args:
      policy_logits: [tokens, vocab], any float dtype.
      reference_logits: [other tokens, vocab], or None. Never receives a gradient.
      policy_index: rows of the policy's table, [n]; a row may stand there more than once.
      reference_index: rows of the reference's table, [n].
      targets: token ids, [n].
      with_kl: compute the token KL.
      with_entropy: compute the policy's entropy, which gets no gradient.
    """
    reference = None if reference_logits is None else reference_logits.detach()
    values = _TokenStatistics.apply(  # type: ignore[no-untyped-call]
        policy_logits, reference, policy_index, reference_index, targets, with_kl
    )
    found = TokenValues(*values)
    if not with_entropy:
        return found
    parts = _chunks(len(policy_index), policy_logits.shape[-1], policy_logits.device)
    tables = (policy_logits.detach()[policy_index[part]] for part in parts)
    entropies = [entropy(table.to(found.policy_logps.dtype)) for table in tables]
    return found._replace(entropy=torch.cat([found.policy_logps.new_zeros(0), *entropies]))


def spread(values: TokenValues, response_mask: Tensor, places: tuple[Tensor, Tensor]) -> TokenStats:
    """Statistics of the true places of a mask, in row order, as [rows, seq - 1]; 0 elsewhere.

    Args:
      values: of the places, each [n].
      response_mask: [rows, seq - 1], bool.
      places: rows and columns where it is true; to find them a GPU must wait.
    """

    def place(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        return value.new_zeros(response_mask.shape).index_put(places, value)

    policy_logps, reference_logps, token_kl, entropies = (place(value) for value in values)
    assert policy_logps is not None
    return TokenStats(policy_logps, reference_logps, token_kl, response_mask, entropy=entropies)


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


class _TokenStatistics(torch.autograd.Function):
    """(log pi(y), log ref(y), KL(ref || pi)) at given positions, with an exact recomputing backward.

    d log pi(y) / d logits = onehot(y) - p;  d KL(q || p) / d logits = p - q.
    """

    @staticmethod
    def forward(
        ctx: Any,
        policy: Tensor,
        reference: Tensor | None,
        index: Tensor,
        reference_index: Tensor,
        targets: Tensor,
        with_kl: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        ctx.save_for_backward(policy, reference, index, reference_index, targets)
        ctx.with_kl = with_kl
        compute = torch.promote_types(torch.float32, policy.dtype)
        policy_logps = policy.new_zeros(len(index), dtype=compute)
        reference_logps = None if reference is None else torch.zeros_like(policy_logps)
        token_kl = torch.zeros_like(policy_logps) if with_kl else None
        for part in _chunks(len(index), policy.shape[-1], policy.device):
            other = None if reference is None else reference[reference_index[part]]
            found = _values(policy[index[part]], other, targets[part], with_kl)
            for whole, value in zip((policy_logps, reference_logps, token_kl), found):
                if whole is not None and value is not None:
                    whole[part] = value
        if reference_logps is not None:
            ctx.mark_non_differentiable(reference_logps)
        return policy_logps, reference_logps, token_kl

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_logps: Tensor, _: Tensor | None, grad_kl: Tensor | None
    ) -> tuple[Tensor, None, None, None, None, None]:
        policy, reference, index, reference_index, targets = ctx.saved_tensors
        grad = torch.zeros_like(policy)
        by_kl = grad_kl if ctx.with_kl else None
        for part in _chunks(len(index), policy.shape[-1], policy.device):
            other = None if by_kl is None else reference[reference_index[part]]
            grads = grad_logps[part], None if by_kl is None else by_kl[part]
            g = _gradient(policy[index[part]], other, targets[part], *grads)
            # One position may predict the first token of two responses: its gradients add up.
            grad.index_add_(0, index[part], g.to(grad.dtype))
        return grad, None, None, None, None, None


def _values(policy: Tensor, reference: Tensor | None, targets: Tensor, with_kl: bool) -> TokenValues:
    """Statistics of a chunk of rows, [n, vocab]."""
    if (kernels := _kernels(policy)) is not None:
        found = kernels.statistics(kernels.Tile(policy, reference), targets, with_kl)
        return TokenValues(found.logps, found.reference_logps, found.kl)
    log_p = _log_softmax(policy)
    logps = log_p.gather(-1, targets[:, None]).squeeze(-1)
    if reference is None:
        return TokenValues(logps, None, None)
    log_q = _log_softmax(reference)
    kl = kl_terms(log_p, log_q).sum(-1) if with_kl else None
    return TokenValues(logps, log_q.gather(-1, targets[:, None]).squeeze(-1), kl)


def _gradient(
    policy: Tensor, reference: Tensor | None, targets: Tensor, by_logps: Tensor, by_kl: Tensor | None
) -> Tensor:
    """Gradient by a chunk's logits, [n, vocab]; reference and by_kl are there or not together."""
    if (kernels := _kernels(policy)) is not None:
        tile = kernels.Tile(policy, reference)
        found = kernels.statistics(tile, targets, False)
        lse, grads = (found.lse, found.reference_lse), (by_logps, by_kl)
        gradient: Tensor = kernels.slice_gradient(tile, lse, targets, 0, grads, LogitMap(), policy.dtype)
        return gradient
    p = _log_softmax(policy).exp()
    g = -by_logps[:, None] * p
    g.scatter_add_(-1, targets[:, None], by_logps[:, None])
    if by_kl is not None and reference is not None:
        g += by_kl[:, None] * (p - _log_softmax(reference).exp())
    return g


def _kernels(logits: Tensor) -> Any:
    """The Triton kernels where they can run, else None."""
    from sparsepo_plugin.forward.statistics import triton_rows

    return triton_rows if triton_rows.usable(logits) else None


def _chunks(count: int, vocab: int, device: torch.device) -> list[slice]:
    elements = _CHUNK_ELEMENTS.get(device.type, _CHUNK_ELEMENTS["cpu"])
    size = max(1, elements // vocab)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
