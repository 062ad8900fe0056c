"""The formula that DPO, TDPO, MaPO and SparsePO share; they differ in the two masks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sparsepo_plugin.types import AnchorWeight, LossOutput, Masks, TokenStats


class PairScores(NamedTuple):
    """Scores of the two responses of every pair, [pairs], before beta."""

    chosen: Tensor
    rejected: Tensor


def masked_sum(values: Tensor, mask: Tensor, response_mask: Tensor) -> Tensor:
    """Sum of mask * values over the response, [rows]; what lies outside the response never matters."""
    # Selecting, not multiplying: a value outside the response may even be infinite.
    return torch.where(response_mask, mask * values, 0.0).sum(-1)


def masked_log_ratios(stats: TokenStats, masks: Masks) -> PairScores:
    """U per response: sum of m_u (log pi - log ref) over the response.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first.
      masks: weights, same shape.

    Raises:
      ValueError: shapes differ, the number of rows is odd, or reference_logps is missing.
    """
    _check(stats, masks)
    if stats.reference_logps is None:
        raise ValueError("this loss needs reference_logps: got None")
    log_ratio = stats.policy_logps - stats.reference_logps
    return PairScores(*masked_sum(log_ratio, masks.reward_mask, stats.response_mask).chunk(2))


def masked_kl(stats: TokenStats, masks: Masks) -> PairScores:
    """K per response: sum of m_d KL(ref || pi) over the response; 0 without a KL mask.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first.
      masks: weights, same shape.

    Raises:
      ValueError: shapes differ, the number of rows is odd, or token_kl is missing.
    """
    _check(stats, masks)
    if masks.kl_mask is None:
        zeros = stats.policy_logps.new_zeros(len(stats.policy_logps) // 2)
        return PairScores(zeros, zeros)
    if stats.token_kl is None:
        raise ValueError("a kl_mask needs token_kl: got None")
    return PairScores(*masked_sum(stats.token_kl, masks.kl_mask, stats.response_mask).chunk(2))


def masked_scores(stats: TokenStats, masks: Masks) -> PairScores:
    """U + K per response, the score whose difference is the logit.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first.
      masks: weights, same shape; without a KL mask K is 0.

    Raises:
      ValueError: as masked_log_ratios and masked_kl.

    Source: arXiv 2410.05102, equations 4 to 6.
    """
    ratios, kls = masked_log_ratios(stats, masks), masked_kl(stats, masks)
    return PairScores(ratios.chosen + kls.chosen, ratios.rejected + kls.rejected)


def sigmoid_loss(scores: PairScores, beta: float) -> LossOutput:
    """-log sigmoid(z) with z = beta ((U + K)_chosen - (U + K)_rejected), per pair."""
    logits = beta * (scores.chosen - scores.rejected)
    return LossOutput(
        losses=-logsigmoid(logits),
        logits=logits.detach(),
        chosen_rewards=beta * scores.chosen.detach(),
        rejected_rewards=beta * scores.rejected.detach(),
    )


def weighted_loss(stats: TokenStats, weights: Tensor, beta: float) -> LossOutput:
    """DPO in which every token's log-ratio has a weight: the loss of most token-weighted methods.

    Args:
      stats: token statistics, [2 * pairs, seq - 1], chosen rows first.
      weights: same shape; no gradient flows through them. What lies outside the response does not matter.
      beta: inverse temperature, > 0.

    Raises:
      ValueError: as masked_log_ratios.
    """
    weights = torch.where(stats.response_mask, weights.detach(), 0.0)
    output = sigmoid_loss(masked_log_ratios(stats, Masks(weights, None)), beta)
    return output._replace(weights=weights)


def data_weights(stats: TokenStats, missing: float) -> Tensor:
    """The data's token weights, with a number where they have none, [2 * pairs, seq - 1].

    Args:
      stats: token statistics.
      missing: what a token has to which the data give no weight.

    Raises:
      ValueError: token_weights are missing.
    """
    if stats.token_weights is None:
        raise ValueError("this loss needs token_weights: got None")
    return stats.token_weights.nan_to_num(nan=missing)


def positions(response_mask: Tensor) -> Tensor:
    """Number of every response token within its response, from 1, [rows, seq - 1]."""
    return response_mask.long().cumsum(-1)


def mask_l1(mask: Tensor, response_mask: Tensor) -> Tensor:
    """L1 norm of the mask of both responses of every pair, [pairs]; a sum over tokens, not a mean."""
    chosen, rejected = torch.where(response_mask, mask.abs(), 0.0).sum(-1).chunk(2)
    return chosen + rejected


def anchor_penalty(stats: TokenStats, masks: Masks, weight: AnchorWeight) -> Tensor:
    """Mean token KL(ref || pi) over the response tokens of both responses of every pair, [pairs], nats.

    A mask of 0 takes a token out of the objective and leaves it unconstrained; this is what holds it.

    Args:
      stats: token statistics with token_kl, [2 * pairs, seq - 1], chosen rows first.
      masks: weights, same shape.
      weight: "uniform", or "complement" for max(0, 1 - m_u) per token; the mask gets no gradient from it,
        or it would grow only to escape the penalty.

    Raises:
      ValueError: token_kl is missing.
    """
    if stats.token_kl is None:
        raise ValueError("the anchor needs token_kl: got None")
    response = stats.response_mask
    weights = torch.ones_like(stats.token_kl)
    if weight == "complement":
        weights = (1 - masks.reward_mask.detach()).clamp(min=0).to(weights.dtype)
    sums = masked_sum(stats.token_kl, weights, response).chunk(2)
    tokens = response.sum(-1).chunk(2)
    return (sums[0] + sums[1]) / (tokens[0] + tokens[1]).clamp(min=1)


def _check(stats: TokenStats, masks: Masks) -> None:
    shape = stats.response_mask.shape
    by_token = stats._replace(policy_states=None)
    for name, value in (*zip(by_token._fields, by_token), *zip(masks._fields, masks)):
        if value is not None and value.shape != shape:
            raise ValueError(
                f"{name} must have the shape of response_mask {tuple(shape)}: got {tuple(value.shape)}"
            )
    if shape[0] % 2:
        raise ValueError(f"rows must be chosen then rejected, an even number: got {shape[0]}")
