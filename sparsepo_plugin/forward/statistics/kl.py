"""Formulas of KL and entropy, which the reference implementation and the fast paths in plain torch share."""

from __future__ import annotations

import torch
from torch import Tensor


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


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax of every row, [...], nats; without a gradient.

    Args:
      logits: [..., vocab]; -inf is allowed.
    """
    total: Tensor = torch.special.entr(torch.softmax(logits.detach(), -1)).sum(-1)
    return total
