"""Prefix sharing: what chosen and rejected have in common is computed once, on the models that allow it.

``start`` checks a model and switches it; then, per batch and model::

    rows = shared_rows(chosen_ids, chosen_attention, rejected_ids, rejected_attention, prompt_lengths)
    with sharing(rows):
        output = model(rows.token_ids, attention_mask=rows.attention_mask, output_hidden_states=True)
    states = rows.window.take(output.hidden_states[-1])     # [2 * pairs, width, hidden], labels beside them
"""

from __future__ import annotations

import torch
from torch import nn

from sparsepo_plugin.adapters.prefix.attention import attach, detach, sharing
from sparsepo_plugin.adapters.prefix.comparison import probe
from sparsepo_plugin.adapters.prefix.layout import SharedRows, shared_rows
from sparsepo_plugin.adapters.prefix.support import reason_against

__all__ = [
    "SharedRows",
    "attach",
    "detach",
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
    reason = reason_against(model, training=training, balancing=balancing) or probe(model, device=device)
    if reason is None:
        attach(model)
    return reason
