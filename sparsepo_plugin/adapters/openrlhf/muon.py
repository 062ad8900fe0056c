"""DeepSpeed's Muon with the mask module left to Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from sparsepo_plugin.adapters.mask_parameters import Groups, regroup
from sparsepo_plugin.configured_loss import ConfiguredLoss


def sparing_masks(
    optimizer: Callable[..., Any], masks: nn.Module, objective: ConfiguredLoss, policy_rate: float
) -> Callable[..., Any]:
    """Wrap DeepSpeed's MuonWithAuxAdam so that the masks are trained by its Adam, as with --optim adam.

    DeepSpeed gives every matrix to Muon. The rows of a mask's weight are one unit per layer, not the matrix
    of a linear map: orthogonalising them would tie the layers' units together, and at Muon's learning rate.
    """

    def build(groups: Groups, *args: Any, **options: Any) -> Any:
        for parameter in masks.parameters():
            parameter.use_muon = False  # type: ignore[attr-defined]
        adam = next(group for group in groups if not group["use_muon"])
        common = {key: value for key, value in adam.items() if key not in ("params", "name")}
        regrouped = [
            {**common, "name": "mask-params", **group} if "use_muon" not in group else group
            for group in regroup(groups, masks, objective, policy_rate)
        ]
        return optimizer(regrouped, *args, **options)

    return build
