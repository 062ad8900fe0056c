"""Arithmetic on tiles of logits in plain torch; triton_rows.py has the same for CUDA."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.forward.head_weights import LogitMap
from sparsepo_plugin.forward.statistics.kl import entropy, kl_terms


class RowStatistics(NamedTuple):
    """What a tile of rows gives, each [n]; nats. Those that were not asked for are None.

    Attributes:
      logps: log pi(y).
      lse: log of the policy's normaliser.
      reference_logps: log ref(y).
      reference_lse: log of the reference's normaliser.
      kl: KL(reference || policy), >= 0.
      entropy: of the policy.
    """

    logps: Tensor
    lse: Tensor
    reference_logps: Tensor | None
    reference_lse: Tensor | None
    kl: Tensor | None
    entropy: Tensor | None = None


class Tile(NamedTuple):
    """Mapped logits [n, vocab] of the same rows; overwritten by what is computed from them."""

    policy: Tensor
    reference: Tensor | None


def statistics(tile: Tile, targets: Tensor, with_kl: bool, with_entropy: bool = False) -> RowStatistics:
    """Statistics of whole rows; with a KL the tile is left as log-probabilities.

    Args:
      tile: mapped logits, [n, vocab].
      targets: token ids, [n].
      with_kl: also the KL.
      with_entropy: also the policy's entropy.
    """
    z, r = tile
    entropies = entropy(z) if with_entropy else None
    lse = z.logsumexp(-1)
    logps = z.gather(1, targets[:, None]).squeeze(1) - lse
    if r is None:
        return RowStatistics(logps, lse, None, None, None, entropies)
    reference_lse = r.logsumexp(-1)
    reference_logps = r.gather(1, targets[:, None]).squeeze(1) - reference_lse
    kl = None
    if with_kl:
        kl = kl_terms(z.sub_(lse[:, None]), r.sub_(reference_lse[:, None])).sum(-1)
    return RowStatistics(logps, lse, reference_logps, reference_lse, kl, entropies)


def gradient(
    exponentials: Tile,
    scales: tuple[Tensor, Tensor | None],
    targets: Tensor,
    grads: tuple[Tensor, Tensor | None],
) -> Tensor:
    """Gradient by the mapped logits of a slice of the vocabulary, [n, slice], in the policy's memory.

    d log pi(y) = onehot(y) - p and d KL(q || p) = p - q.

    Args:
      exponentials: of the slice, [n, slice]; times the scales they are probabilities.
      scales: of policy and reference, each [n].
      targets: columns of the targets; outside the slice where a target is none of its columns, [n].
      grads: gradients by log pi(y) and by the KL, each [n].
    """
    (p, q), (grad_logps, grad_kl) = exponentials, grads
    grad = p.mul_((scales[0] * (-grad_logps if grad_kl is None else grad_kl - grad_logps))[:, None])
    if grad_kl is not None and q is not None and scales[1] is not None:
        grad.addcmul_(q, (scales[1] * grad_kl)[:, None], value=-1)
    inside = (targets >= 0) & (targets < p.shape[1])
    # Tokens outside the slice add 0 somewhere: no branch, so that a GPU need not wait.
    column = targets.clamp(0, p.shape[1] - 1)
    return grad.scatter_add_(1, column[:, None], torch.where(inside, grad_logps, 0)[:, None])


def slice_gradient(
    tile: Tile,
    lse: tuple[Tensor, Tensor | None],
    targets: Tensor,
    start: int,
    grads: tuple[Tensor, Tensor | None],
    logit_map: LogitMap,
    dtype: torch.dtype,
) -> Tensor:
    """Gradient by the raw logits of a slice of the vocabulary, [n, slice]; the tile is overwritten.

    Args:
      tile: mapped logits of the slice.
      lse: log normalisers of policy and reference over the whole vocabulary, each [n].
      targets: token ids, [n].
      start: first token id of the slice.
      grads: gradients by log pi(y) and by the KL, each [n].
      logit_map: the policy's.
      dtype: of the result.
    """
    z, r = tile
    slope = logit_map.slope(z)
    q = None if r is None or lse[1] is None else r.sub_(lse[1][:, None]).exp_()
    p, ones = z.sub_(lse[0][:, None]).exp_(), torch.ones_like(lse[0])
    grad = gradient(Tile(p, q), (ones, None if q is None else ones), targets - start, grads)
    return (grad if isinstance(slope, float) and slope == 1.0 else grad.mul_(slope)).to(dtype)
