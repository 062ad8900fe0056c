"""From what two models gave on a batch to the statistics of its response tokens.

Where both gave final hidden states the statistics are computed inside a call of the policy's head, by
``statistics.fused_statistics``; else from logits, by the reference implementation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.forward.head import Compute, call_head
from sparsepo_plugin.forward.head_weights import LogitMap
from sparsepo_plugin.forward.runner import ModelOutput
from sparsepo_plugin.forward.sharding import Sharding, WholeModels
from sparsepo_plugin.forward.statistics import HeadWeights, ReferenceRows, fused_statistics
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX, TokenValues, spread, statistics_at
from sparsepo_plugin.forward.window import ResponseWindow
from sparsepo_plugin.types import TokenStats

_WHOLE = WholeModels()


class Asked(NamedTuple):
    """Statistics to compute beyond the log-probabilities: KL(reference || policy), the policy's entropy."""

    kl: bool = False
    entropy: bool = False


def statistics(
    policy: ModelOutput,
    reference: ModelOutput | None,
    *,
    with_kl: bool,
    with_entropy: bool = False,
    with_states: bool = False,
    sharding: Sharding = _WHOLE,
) -> TokenStats:
    """Token statistics of a batch in the window's layout, [2 * pairs, width - 1].

    Args:
      policy: the policy's view.
      reference: the reference's view of the same batch, or None.
      with_kl: compute the token KL.
      with_entropy: compute the policy's entropy.
      with_states: also the policy's final hidden states.
      sharding: how the reference is spread over processes.
    """
    asked = Asked(with_kl, with_entropy)
    places = policy.window.predicting()
    targets = policy.window.labels[:, 1:][places]
    fused = policy.states is not None and (reference is None or reference.states is not None)
    if policy.values:
        values = _named(policy.values, reference is not None, asked)
    elif fused:
        values = _fused(policy, reference, asked, sharding)
    else:
        logits, index = _logits(policy)
        other, other_index = (None, index) if reference is None else _logits(reference)
        values = statistics_at(
            logits, other, index, other_index, targets, with_kl=with_kl, with_entropy=with_entropy
        )
    stats = spread(values, policy.window.labels[:, 1:] != IGNORE_INDEX, places)
    if not with_states:
        return stats
    assert policy.final is not None
    shape = (*stats.response_mask.shape, policy.final.shape[-1])
    states = policy.final.detach()
    return stats._replace(policy_states=states.new_zeros(shape).index_put(places, states))


def inside_head(
    window: ResponseWindow,
    logit_map: LogitMap,
    reference: ModelOutput | None,
    asked: Asked,
    sharding: Sharding,
) -> Compute:
    """What the policy's head has to compute for ``statistics``, from its states at ``window.predicting()``.

    Args:
      window: where the responses lie.
      logit_map: what the policy does after its head.
      reference: the reference's view of the batch, with states, or None.
      asked: statistics beyond the log-probabilities.
      sharding: how the reference is spread over processes.
    """
    targets = window.labels[:, 1:][window.predicting()]
    rows: ReferenceRows | None = None
    if reference is not None:
        assert reference.states is not None
        assert reference.head is not None
        open_head = functools.partial(sharding.open_head, reference.head)
        rows = ReferenceRows(
            reference.states, open_head, reference.logit_map, sharding.collective, reference.autocast
        )

    def compute(states: Tensor, weights: HeadWeights, autocast: torch.dtype | None) -> tuple[Tensor, ...]:
        values = fused_statistics(
            states, weights, targets, rows, with_kl=asked.kl, with_entropy=asked.entropy,
            logit_map=logit_map, dtype=autocast,
        )  # fmt: skip
        return tuple(value for value in values if value is not None)

    return compute


def _fused(
    policy: ModelOutput, reference: ModelOutput | None, asked: Asked, sharding: Sharding
) -> TokenValues:
    assert policy.states is not None
    assert policy.head is not None
    compute = inside_head(policy.window, policy.logit_map, reference, asked, sharding)
    values = call_head(
        policy.head, policy.states, lambda states, weights: compute(states, weights, policy.autocast)
    )
    return _named(values, reference is not None, asked)


def _named(values: Sequence[Tensor], with_reference: bool, asked: Asked) -> TokenValues:
    each = iter(values)
    policy_logps = next(each)
    reference_logps = next(each) if with_reference else None
    token_kl = next(each) if asked.kl else None
    return TokenValues(policy_logps, reference_logps, token_kl, next(each) if asked.entropy else None)


def _logits(output: ModelOutput) -> tuple[Tensor, Tensor]:
    """A table of logits and the rows to read in it; from the states where only those are there."""
    if output.logits is not None:
        return output.logits, output.positions
    assert output.states is not None
    assert output.head is not None
    device, dtype = output.states.device.type, output.autocast
    with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
        logits = output.logit_map.image(output.head(output.states[None])[0])
    return logits, torch.arange(len(logits), device=logits.device)


def negative_log_likelihood(policy: ModelOutput) -> Tensor:
    """Mean over pairs of the mean negative log-likelihood per chosen token, as upstream's NLL term."""
    chosen = policy.first_rows(len(policy.window.labels) // 2)
    stats = statistics(chosen, None, with_kl=False)
    return -(stats.policy_logps.sum(-1) / stats.response_mask.sum(-1)).mean()
