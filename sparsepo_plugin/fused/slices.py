"""Statistics of rows whose logits come in slices of the vocabulary, in plain torch.

A tile of whole rows holds few of them where the vocabulary is large, and a CPU multiplies few rows with a
large head at a third of its speed. All rows by a slice of the vocabulary are a better product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsepo_plugin.fused.rows import RowStatistics, Tile, kl


class _Normaliser:
    """log sum exp of columns that come in slices, [n]."""

    def __init__(self, like: Tensor) -> None:
        # Finite, so that a slice of -inf alone adds 0 and not nan.
        self._peak = torch.full_like(like, torch.finfo(like.dtype).min)
        self._total = torch.zeros_like(like)

    def add(self, logits: Tensor) -> Tensor:
        """Take in a slice, [n, slice], and make it relative to the peak.

        Returns:
          What sums of exp(logit - peak) so far are to be multiplied with, [n].
        """
        peak = torch.maximum(self._peak, logits.amax(-1))
        factor = (self._peak - peak).exp_()
        self._peak = peak
        self._total.mul_(factor).add_(logits.sub_(peak[:, None]).exp().sum(-1))
        return factor

    def lse(self) -> Tensor:
        return self._peak + self._total.log()

    def mean(self, total: Tensor) -> Tensor:
        """A sum over columns of exp(logit - peak) times something, as the mean of that something."""
        return total / self._total

    @property
    def peak(self) -> Tensor:
        return self._peak


class RunningStatistics:
    """Takes in tiles of one slice of the vocabulary after the other.

    The KL is sum q (expm1(x) - x) with x = log p - log q, for which both normalisers must be known. Their
    difference is guessed from the first slice: with x + d in place of x the sum is larger by expm1(d) - d.

    Args:
      targets: token ids, [n].
      like: a tensor of the tiles' dtype and device.
      with_kl: also the KL.
    """

    def __init__(self, targets: Tensor, like: Tensor, with_kl: bool) -> None:
        zeros = torch.zeros(targets.shape, dtype=like.dtype, device=like.device)
        self._targets, self._with_kl = targets, with_kl
        self._policy, self._reference = _Normaliser(zeros), _Normaliser(zeros)
        self._chosen, self._reference_chosen, self._terms = zeros, zeros.clone(), zeros.clone()
        self._guess: Tensor | None = None
        self._judged = False

    def add(self, tile: Tile, start: int) -> None:
        """Take in mapped logits [n, slice] of the token ids from ``start`` on; they are overwritten."""
        z, r = tile
        inside = (self._targets >= start) & (self._targets < start + z.shape[1])
        column = (self._targets - start).clamp(0, z.shape[1] - 1)[:, None]
        self._chosen = torch.where(inside, z.gather(1, column).squeeze(1), self._chosen)
        self._policy.add(z)
        if r is None:
            return
        self._judged = True
        self._reference_chosen = torch.where(inside, r.gather(1, column).squeeze(1), self._reference_chosen)
        factor = self._reference.add(r)
        if self._with_kl:
            if self._guess is None:
                self._guess = (self._policy.lse() - self._reference.lse()).nan_to_num_()
            # Both are relative to their peaks now.
            between = self._policy.peak - self._reference.peak - self._guess
            x = z.sub_(r).add_(between[:, None])
            self._terms.mul_(factor).add_(kl(x, r))

    def result(self) -> tuple[RowStatistics, Tensor | None]:
        """The statistics, and how far off the guess was, [n]; None without a KL."""
        lse = self._policy.lse()
        if not self._judged:
            return RowStatistics(self._chosen - lse, lse, None, None, None), None
        reference_lse = self._reference.lse()
        found = RowStatistics(
            self._chosen - lse, lse, self._reference_chosen - reference_lse, reference_lse, None
        )
        if self._guess is None:
            return found, None
        off = lse - reference_lse - self._guess
        value = (self._reference.mean(self._terms) - (off.expm1() - off)).clamp_(min=0)
        return found._replace(kl=value), off
