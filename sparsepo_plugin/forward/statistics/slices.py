"""Statistics of rows whose logits come in slices of the vocabulary, in plain torch.

A tile of whole rows holds few of them where the vocabulary is large, and a CPU multiplies few rows with a
large head at a third of its speed. All rows by a slice of the vocabulary are a better product.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.forward.statistics.rows import RowStatistics, Tile

_OVERFLOWS = 40.0  # expm1 of more spoils a product with a probability that is nearly 0


class Exponentials(NamedTuple):
    """What is kept of a slice: exp(logit - peak), and the peaks, each [n], of policy and reference."""

    tile: Tile
    peaks: tuple[Tensor, Tensor | None]


class _RunningSoftmax:
    """log sum exp, the logit of the target, and the entropy if asked for, of columns in slices; each [n]."""

    def __init__(self, like: Tensor, *, with_entropy: bool = False) -> None:
        # Finite, so that a slice of -inf alone adds 0 and not nan.
        self.peak = torch.full_like(like, torch.finfo(like.dtype).min)
        self.total, self._chosen = torch.zeros_like(like), torch.zeros_like(like)
        # Sum of (peak - logit) exp(logit - peak).
        self._spread = torch.zeros_like(like) if with_entropy else None

    def see(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Look at a slice, [n, slice], and make it relative to the peak so far.

        Args:
          logits: overwritten.
          targets: column of every row's target; outside the slice if it is none of its columns.

        Returns:
          What sums of exp(logit - peak) before this slice are to be multiplied with, [n].
        """
        width = logits.shape[1]
        chosen = logits.gather(1, targets.clamp(0, width - 1)[:, None]).squeeze(1)
        self._chosen = torch.where((targets >= 0) & (targets < width), chosen, self._chosen)
        peak = torch.maximum(self.peak, logits.amax(-1))
        factor = (self.peak - peak).exp_()
        if self._spread is not None:
            # Before the first slice the total is 0, and so is what the distance of the peaks adds.
            self._spread = factor * (
                self._spread + torch.where(self.total > 0, peak - self.peak, 0) * self.total
            )
        self.peak = peak
        logits.sub_(peak[:, None])
        return factor

    def add(self, exponentials: Tensor, factor: Tensor) -> None:
        """Take in what the slice has become: exp(logit - peak), [n, slice]."""
        self.total.mul_(factor).add_(exponentials.sum(-1))
        if self._spread is not None:
            self._spread = self._spread + torch.special.entr(exponentials).sum(-1)

    def lse(self) -> Tensor:
        return self.peak + self.total.log()

    def logps(self) -> Tensor:
        return self._chosen - self.lse()

    def entropy(self) -> Tensor | None:
        return None if self._spread is None else self.total.log() + self._spread / self.total


class RunningStatistics:
    """Takes in tiles of one slice of the vocabulary after the other.

    The KL is sum q (expm1(x) - x) with x = log p - log q, for which both normalisers must be known. Their
    difference is guessed from the first slice: with x + d in place of x the sum is larger by expm1(d) - d.

    Args:
      targets: token ids, [n].
      like: a tensor of the tiles' dtype and device.
      with_reference: tiles have the reference's logits too.
      with_kl: also the KL; needs a reference.
      with_entropy: also the policy's entropy.
    """

    def __init__(
        self,
        targets: Tensor,
        like: Tensor,
        *,
        with_reference: bool,
        with_kl: bool,
        with_entropy: bool = False,
    ) -> None:
        zeros = torch.zeros(targets.shape, dtype=like.dtype, device=like.device)
        self._targets, self._with_kl = targets, with_kl
        self._policy = _RunningSoftmax(zeros, with_entropy=with_entropy)
        self._reference = _RunningSoftmax(zeros) if with_reference else None
        self._terms = zeros
        self._guess: Tensor | None = None

    def add(self, tile: Tile, start: int) -> Exponentials:
        """Take in mapped logits [n, slice] of the token ids from ``start`` on; they become exponentials."""
        (z, r), policy, reference = tile, self._policy, self._reference
        targets = self._targets - start
        factor = policy.see(z, targets)
        if reference is None or r is None:
            policy.add(z.exp_(), factor)
            return Exponentials(Tile(z, None), (policy.peak, None))
        other_factor = reference.see(r, targets)
        x = z - r if self._with_kl else None
        policy.add(z.exp_(), factor)
        reference.add(r.exp_(), other_factor)
        if x is not None:
            if self._guess is None:
                self._guess = (policy.lse() - reference.lse()).nan_to_num_()
            shift = policy.peak - reference.peak - self._guess
            self._terms.mul_(other_factor).add_(kl(x.add_(shift[:, None]), z, r, shift))
        return Exponentials(tile, (policy.peak, reference.peak))

    def result(self) -> tuple[RowStatistics, Tensor | None]:
        """The statistics, and how far off the guess was, [n]; None without a KL."""
        policy, reference = self._policy, self._reference
        logps, lse, entropy = policy.logps(), policy.lse(), policy.entropy()
        if reference is None:
            return RowStatistics(logps, lse, None, None, None, entropy), None
        found = RowStatistics(logps, lse, reference.logps(), reference.lse(), None, entropy)
        if self._guess is None:
            return found, None
        off = policy.lse() - reference.lse() - self._guess
        value = (self._terms / reference.total - (off.expm1() - off)).clamp_(min=0)
        return found._replace(kl=value), off


def kl(x: Tensor, p: Tensor, q: Tensor, shift: Tensor) -> Tensor:
    """Sum of q (expm1(x) - x) over the columns, [n]; see kl.kl_terms.

    Neither q nor p e^shift = q e^x need be normalised: each term is >= 0 all the same.

    Args:
      x: [n, slice].
      p: the policy's exponentials, [n, slice].
      q: the reference's, [n, slice].
      shift: [n].
    """
    found: Tensor = torch.linalg.vecdot(torch.expm1(x).sub_(x), q)
    if bool(((x.amax(-1) <= _OVERFLOWS) & found.isfinite()).all()):
        return found
    # The exponential of a large x overflows although q e^x does not; an entry of -inf leaves no x.
    p = p * shift.exp()[:, None]
    terms = torch.where(x > 1, p - q - q * x, torch.expm1(x).sub_(x).mul_(q))
    return torch.where(q == 0, p, terms).sum(-1)
