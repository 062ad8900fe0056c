"""The reference's forward pass, with exactly what the loss asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsepo_plugin.forward.activations import Recorder, Site, find_sites
from sparsepo_plugin.forward.runner import ForwardRunner, ModelOutput
from sparsepo_plugin.forward.window import ResponseWindow


class ReferenceOutput(NamedTuple):
    """What the reference says about a batch, at the response positions.

    Attributes:
      reading: its statistics' part and its hidden states.
      activations: feature means of the recorded sites, each [2 * pairs, width]; empty if not asked for.
    """

    reading: ModelOutput
    activations: Mapping[str, Tensor]


def plain(model: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def recording_sites(model: Any, groups: tuple[str, ...]) -> list[Site]:
    """Find where to record activations, on a copy without weights: PEFT's layers look like projections.

    Raises:
      UserError: the model lacks the structure of a causal language model.
    """
    if not groups:
        return []
    base = plain(model)
    with torch.device("meta"):
        return find_sites(type(base)(base.config), groups)


def run(
    model: nn.Module,
    inputs: Mapping[str, Any],
    reader: ForwardRunner,
    window: ResponseWindow,
    sites: list[Site],
) -> ReferenceOutput:
    """Run the reference; the caller has set no_grad and, under PEFT, switched the adapter off.

    The hooks live for this pass only: the same modules may also run the policy.

    Args:
      model: reference model, unwrapped.
      inputs: keyword arguments of its forward.
      reader: of this model.
      window: where the responses lie.
      sites: where to record activations.
    """
    recorder = Recorder(plain(model), sites) if sites else None
    try:
        reading = reader.read(lambda **asked: model(**inputs, **asked), window)
    finally:
        if recorder is not None:
            recorder.remove()
    means = {} if recorder is None else recorder.take()
    return ReferenceOutput(reading, {name: window.take(value) for name, value in means.items()})
