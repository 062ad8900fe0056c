"""A model's view of a batch of pairs, in the form the core wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sparsepo_plugin.token_stats import IGNORE_INDEX, token_stats
from sparsepo_plugin.types import TokenStats


class ModelOutput(NamedTuple):
    """One model's view of a batch; travels through fit() in the slot of the chosen log-probabilities.

    Attributes:
      logits: [2 * pairs, seq, vocab], chosen rows first; packed: [1, tokens, vocab], as the model gave them.
      labels: response token ids, -100 elsewhere, [2 * pairs, seq].
      hidden_states: of blocks 1..L, each [2 * pairs, seq, hidden]; empty if not asked for.
      token_ids: input tokens, [2 * pairs, seq].
      activations: feature means of the recorded sites, each [2 * pairs, seq]; empty if not asked for.
      indices: dataset index of every pair.
      attention: the attention mask, [2 * pairs, seq], where logits are packed; None where they are not.
    """

    logits: Tensor
    labels: Tensor
    hidden_states: tuple[Tensor, ...]
    token_ids: Tensor
    activations: dict[str, Tensor]
    indices: list[int]
    attention: Tensor | None = None


def response_labels(ids: Tensor, attention: Tensor, prompt_lengths: Sequence[int]) -> Tensor:
    """Token ids on response tokens, -100 on prompt and padding, [rows, seq]."""
    positions = torch.arange(ids.shape[1], device=ids.device)
    lengths = torch.tensor([int(length) for length in prompt_lengths], device=ids.device)
    response = attention.bool() & (positions >= lengths[:, None])
    return ids.masked_fill(~response, IGNORE_INDEX)


def unpack(value: Tensor, attention: Tensor) -> Tensor:
    """Spread packed values [1, tokens, ...] over [rows, seq, ...] by the attention mask."""
    rows, length = attention.shape
    index = attention.flatten().nonzero().squeeze(-1)
    out = value.new_zeros((rows * length, *value.shape[2:])).index_copy(0, index, value[0])
    return out.view(rows, length, *value.shape[2:])


def mean_over_shards(
    means: Mapping[str, Tensor], features: Mapping[str, int], group: dist.ProcessGroup
) -> dict[str, Tensor]:
    """Feature means of whole activations from the means that tensor-parallel processes took of their parts.

    An activation that every process holds whole keeps its mean.

    Args:
      means: mean over this process's features by site, each [rows, seq], equal shapes.
      features: number of this process's features by site.
      group: processes that share a model.
    """
    names = list(means)
    counts = torch.tensor([float(features[name]) for name in names], device=means[names[0]].device)
    totals = torch.stack([means[name] for name in names]) * counts[:, None, None]
    for value in (totals, counts):
        dist.all_reduce(value, group=group)
    return dict(zip(names, totals / counts[:, None, None]))


def statistics(policy: ModelOutput, reference: ModelOutput | None, *, with_kl: bool) -> TokenStats:
    """Token statistics of a batch, [2 * pairs, seq - 1]; packed logits are never spread, only the results.

    Args:
      policy: the policy's view.
      reference: the reference's view of the same batch, or None.
      with_kl: compute the token KL.
    """
    logits = None if reference is None else reference.logits
    if policy.attention is None:
        return token_stats(policy.logits, logits, policy.labels, with_kl=with_kl)
    # In a packed row the first token of a sample follows the last one of another, which does not predict it.
    labels = policy.labels.clone()
    labels[:, 0] = IGNORE_INDEX
    packed = token_stats(policy.logits, logits, labels[policy.attention.bool()][None], with_kl=with_kl)
    return TokenStats(*(_spread(value, policy.attention) for value in packed))


def _spread(value: Tensor | None, attention: Tensor) -> Any:
    """Packed values [1, tokens - 1] of predicting positions as [rows, seq - 1]; None stays None."""
    if value is None:
        return None
    return unpack(torch.cat([value, value.new_zeros(1, 1)], dim=1), attention)[:, :-1]


def negative_log_likelihood(output: ModelOutput) -> Tensor:
    """Mean over pairs of the mean negative log-likelihood per chosen token, as upstream's NLL term."""
    pairs = len(output.labels) // 2
    chosen = output.labels.clone()
    chosen[pairs:] = IGNORE_INDEX
    stats = statistics(output._replace(labels=chosen), None, with_kl=False)
    return -(stats.policy_logps[:pairs].sum(-1) / stats.response_mask[:pairs].sum(-1)).mean()
