"""From what two models gave on a batch to the statistics of its response tokens.

Where both gave final hidden states the statistics are computed inside a call of the policy's head, by
``statistics.fused_statistics``; else from logits, by the reference implementation.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsepo_plugin.forward.head import call_head
from sparsepo_plugin.forward.runner import ModelOutput
from sparsepo_plugin.forward.sharding import Sharding, WholeModels
from sparsepo_plugin.forward.statistics import HeadWeights, ReferenceRows, fused_statistics
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX, TokenValues, spread, statistics_at
from sparsepo_plugin.types import TokenStats

_WHOLE = WholeModels()


def statistics(
    policy: ModelOutput,
    reference: ModelOutput | None,
    *,
    with_kl: bool,
    sharding: Sharding = _WHOLE,
) -> TokenStats:
    """Token statistics of a batch in the window's layout, [2 * pairs, width - 1].

    Args:
      policy: the policy's view.
      reference: the reference's view of the same batch, or None.
      with_kl: compute the token KL.
      sharding: how the reference is spread over processes.
    """
    places = policy.window.predicting()
    targets = policy.window.labels[:, 1:][places]
    fused = policy.states is not None and (reference is None or reference.states is not None)
    if fused:
        values = _fused(policy, reference, targets, with_kl, sharding)
    else:
        logits, index = _logits(policy)
        other, other_index = (None, index) if reference is None else _logits(reference)
        values = statistics_at(logits, other, index, other_index, targets, with_kl=with_kl)
    return spread(values, policy.window.labels[:, 1:] != IGNORE_INDEX, places)


def _fused(
    policy: ModelOutput,
    reference: ModelOutput | None,
    targets: Tensor,
    with_kl: bool,
    sharding: Sharding,
) -> TokenValues:
    assert policy.states is not None
    assert policy.head is not None
    rows: ReferenceRows | None = None
    if reference is not None:
        assert reference.states is not None
        assert reference.head is not None
        open_head = functools.partial(sharding.open_head, reference.head)
        rows = ReferenceRows(
            reference.states, open_head, reference.logit_map, sharding.collective, reference.autocast
        )

    def compute(states: Tensor, weights: HeadWeights) -> Sequence[Tensor]:
        values = fused_statistics(
            states, weights, targets, rows, with_kl=with_kl, logit_map=policy.logit_map, dtype=policy.autocast
        )
        return tuple(value for value in values if value is not None)

    values = iter(call_head(policy.head, policy.states, compute))
    policy_logps = next(values)
    reference_logps = None if rows is None else next(values)
    return TokenValues(policy_logps, reference_logps, next(values) if with_kl else None)


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
