"""What a run optimises: the chosen loss with its options, for one reference model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsepo_plugin.objective import anchor_penalty
from sparsepo_plugin.options import LossOptions
from sparsepo_plugin.registry import Loss
from sparsepo_plugin.types import LossOutput, Masks, Needs, ReferenceShape, TokenStats


@dataclass(frozen=True)
class ConfiguredLoss:
    """A loss, its options, and the sizes of the reference model it reads.

    Attributes:
      loss: the registered loss.
      options: validated options of that loss.
      shape: sizes of the reference model.
    """

    loss: Loss
    options: LossOptions
    shape: ReferenceShape

    @property
    def needs(self) -> Needs:
        """Work the adapter must do."""
        return self.options.needs()

    def build_masks(self, seed: int) -> nn.Module:
        """Build the mask source."""
        return self.options.build_masks(self.shape, seed)

    def evaluate(self, stats: TokenStats, masks: Masks, beta: float) -> LossOutput:
        """The loss with the anchor, where one is asked for; losses [pairs]."""
        output = self.loss.function(stats, masks, beta, self.options)
        if not self.options.anchor:
            return output
        penalty = anchor_penalty(stats, output.shown(masks), self.options.anchor_weight)
        return output._replace(losses=output.losses + self.options.anchor * penalty)

    def record(self) -> dict[str, Any]:
        """Everything needed to build the mask module again, as JSON values."""
        return {
            "loss": self.loss.name,
            "options": dataclasses.asdict(self.options),
            "reference_shape": dataclasses.asdict(self.shape),
        }


def reference_shape(config: Any) -> ReferenceShape:
    """Read the sizes off a transformers configuration of any causal language model.

    Epsilon is looked up under every name transformers uses; the release knew two of them only.
    """
    text = config.get_text_config()
    names = ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "norm_eps", "norm_epsilon")
    values = (getattr(text, name, None) for name in names)
    eps = next((float(value) for value in values if value is not None), 1e-5)
    scale = getattr(text, "initializer_range", None)
    return ReferenceShape(
        hidden_size=int(text.hidden_size),
        layers=int(text.num_hidden_layers),
        layer_norm_eps=eps,
        initializer_range=0.02 if scale is None else float(scale),
    )
