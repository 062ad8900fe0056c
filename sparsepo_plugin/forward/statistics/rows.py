"""Arithmetic on tiles of logits in plain torch; triton_rows.py has the same for CUDA."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.forward.head_weights import LogitMap
from sparsepo_plugin.forward.statistics.reference import kl_terms


class RowStatistics(NamedTuple):
    """What a tile of rows gives, each [n]; nats. Those that were not asked for are None.

    Attributes:
      logps: log pi(y).
      lse: log of the policy's normaliser.
      reference_logps: log ref(y).
      reference_lse: log of the reference's normaliser.
      kl: KL(reference || policy), >= 0.
    """

    logps: Tensor
    lse: Tensor
    reference_logps: Tensor | None
    reference_lse: Tensor | None
    kl: Tensor | None


class Tile(NamedTuple):
    """Mapped logits [n, vocab] of the same rows; overwritten by what is computed from them."""

    policy: Tensor
    reference: Tensor | None


def statistics(tile: Tile, targets: Tensor, with_kl: bool) -> RowStatistics:
    """Statistics of whole rows; with a KL leaves log(pi / ref) in tile.policy, log ref in tile.reference.

    Args:
      tile: mapped logits, [n, vocab].
      targets: token ids, [n].
      with_kl: also the KL.
    """
    z, r = tile
    lse = z.logsumexp(-1)
    logps = z.gather(1, targets[:, None]).squeeze(1) - lse
    if r is None:
        return RowStatistics(logps, lse, None, None, None)
    reference_lse = r.logsumexp(-1)
    reference_logps = r.gather(1, targets[:, None]).squeeze(1) - reference_lse
    if not with_kl:
        return RowStatistics(logps, lse, reference_logps, reference_lse, None)
    x = z.sub_(r).sub_((lse - reference_lse)[:, None])
    log_q = r.sub_(reference_lse[:, None])
    return RowStatistics(logps, lse, reference_logps, reference_lse, kl(x, log_q))


def kl(x: Tensor, log_q: Tensor) -> Tensor:
    """Sum of q (expm1(x) - x) over the columns; see token_stats.kl_terms.

    Neither log_q nor x + log_q need be normalised: each term is >= 0 all the same.
    """
    if x.device.type != "cpu" or (x.numel() and float(x.amax()) > 40):
        # The exponential of a large x overflows: the slower form has a branch for it.
        return kl_terms(x + log_q, log_q).sum(-1)
    terms = torch.expm1(x).sub_(x)
    return terms.mul_(log_q.exp()).sum(-1).clamp_(min=0)


class Probabilities(NamedTuple):
    """Of a tile, [n, vocab]; the reference's only where a KL was asked for."""

    policy: Tensor
    reference: Tensor | None


def probabilities(tile: Tile, rows: RowStatistics) -> Probabilities:
    """Probabilities of a tile that ``statistics`` has been called on, in the tile's memory."""
    z, r = tile
    if rows.kl is None or r is None:
        return Probabilities(z.sub_(rows.lse[:, None]).exp_(), None)
    return Probabilities(z.add_(r).exp_(), r.exp_())


def gradient(
    probability: Probabilities, targets: Tensor, start: int, grad_logps: Tensor, grad_kl: Tensor | None
) -> Tensor:
    """Gradient by the mapped logits of a slice of the vocabulary, [n, slice], in the policy's memory.

    d log pi(y) = onehot(y) - p and d KL(q || p) = p - q.

    Args:
      probability: of the slice.
      targets: token ids, [n].
      start: first token id of the slice.
      grad_logps: gradient by log pi(y), [n].
      grad_kl: gradient by the KL, [n], or None.
    """
    p, q = probability
    grad = p.mul_((-grad_logps if grad_kl is None else grad_kl - grad_logps)[:, None])
    if grad_kl is not None and q is not None:
        grad.addcmul_(q, grad_kl[:, None], value=-1)
    inside = (targets >= start) & (targets < start + p.shape[1])
    # Tokens outside the slice add 0 somewhere: no branch, so that a GPU need not wait.
    column = (targets - start).clamp(0, p.shape[1] - 1)
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
    p = z.sub_(lse[0][:, None]).exp_()
    return gradient(Probabilities(p, q), targets, start, *grads).mul_(slope).to(dtype)
