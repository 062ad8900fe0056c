"""The formula that DPO, TDPO, MaPO and SparsePO share; they differ in the two masks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sparsepo_plugin.types import LossOutput, Masks, TokenStats


class PairScores(NamedTuple):
    """Scores of the two responses of every pair, [pairs], before beta."""

    chosen: Tensor
    rejected: Tensor


def masked_scores(stats: TokenStats, masks: Masks) -> PairScores:
    """U + K per response: U = sum m_u (log pi - log ref), K = sum m_d KL(ref || pi), over the response.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first.
      masks: weights, same shape; without a KL mask K is 0.

    Raises:
      ValueError: shapes differ, the number of rows is odd, or a needed statistic is missing.

    Source: arXiv 2410.05102, equations 4 to 6.
    """
    _check(stats, masks)
    assert stats.reference_logps is not None
    # Selecting, not multiplying: a mask value outside the response must not matter even if not finite.
    terms = masks.reward_mask * (stats.policy_logps - stats.reference_logps)
    if masks.kl_mask is not None:
        assert stats.token_kl is not None
        terms = terms + masks.kl_mask * stats.token_kl
    scores = torch.where(stats.response_mask, terms, 0.0).sum(-1)
    return PairScores(*scores.chunk(2))


def sigmoid_loss(scores: PairScores, beta: float) -> LossOutput:
    """-log sigmoid(z) with z = beta ((U + K)_chosen - (U + K)_rejected), per pair."""
    logits = beta * (scores.chosen - scores.rejected)
    return LossOutput(
        losses=-logsigmoid(logits),
        logits=logits.detach(),
        chosen_rewards=beta * scores.chosen.detach(),
        rejected_rewards=beta * scores.rejected.detach(),
    )


def mask_l1(mask: Tensor, response_mask: Tensor) -> Tensor:
    """L1 norm of the mask of both responses of every pair, [pairs]; a sum over tokens, not a mean."""
    norms = torch.where(response_mask, mask.abs(), 0.0).sum(-1)
    chosen, rejected = norms.chunk(2)
    return chosen + rejected


def _check(stats: TokenStats, masks: Masks) -> None:
    shape = stats.response_mask.shape
    if stats.reference_logps is None:
        raise ValueError("this loss needs reference_logps: got None")
    if masks.kl_mask is not None and stats.token_kl is None:
        raise ValueError("a kl_mask needs token_kl: got None")
    for name, value in (*zip(stats._fields, stats), *zip(masks._fields, masks)):
        if value is not None and value.shape != shape:
            raise ValueError(
                f"{name} must have the shape of response_mask {tuple(shape)}: got {tuple(value.shape)}"
            )
    if shape[0] % 2:
        raise ValueError(f"rows must be chosen then rejected, an even number: got {shape[0]}")
