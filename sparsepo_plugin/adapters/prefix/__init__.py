"""Prefix sharing: what chosen and rejected have in common is computed once, on the models that allow it.

``start`` checks a model and switches it; then, per batch and model::

    rows = shared_rows(chosen_ids, chosen_attention, rejected_ids, rejected_attention, prompt_lengths)
    rows = rows.packed() if packs(policy, reference) else rows
    with sharing(rows):
        output = model(rows.token_ids, attention_mask=rows.attention_mask, output_hidden_states=True)
    states = rows.window.take(output.hidden_states[-1])     # [2 * pairs, width, hidden], labels beside them

Of the kernels that may stand for a model's attention, the first that gives its numbers is taken: attention
over sequences of any length, FlexAttention on CUDA, a mask.
"""

from __future__ import annotations

import torch
from torch import nn

from sparsepo_plugin.adapters.prefix.attention import (
    attach,
    detach,
    kernels_for,
    language_model,
    packs,
    sharing,
)
from sparsepo_plugin.adapters.prefix.comparison import probe
from sparsepo_plugin.adapters.prefix.layout import SharedRows, shared_rows
from sparsepo_plugin.adapters.prefix.support import reason_against

__all__ = [
    "SharedRows",
    "attach",
    "detach",
    "packs",
    "probe",
    "reason_against",
    "shared_rows",
    "sharing",
    "start",
]


def start(
    model: nn.Module, *, training: bool, balancing: bool = False, device: torch.device | None = None
) -> str | None:
    """Switch a model to shared rows if it gives the numbers of separate ones.

    Call it on every process, after the model is in its engine and before the first step.

    Args:
      model: policy or reference, wrapped in whatever.
      training: the model will be trained.
      balancing: a balancing loss of a mixture of experts is part of the objective.
      device: where inputs belong; by default where the parameters are.

    Returns:
      None if the model is attached now, else why it was left as it was, in one line.
    """
    reason = reason_against(model, training=training, balancing=balancing)
    if reason is not None:
        return reason
    for kernel in kernels_for(language_model(model)):
        reason = probe(model, kernel, training=training, device=device)
        if reason is None:
            attach(model, kernel)
            break
    return reason
