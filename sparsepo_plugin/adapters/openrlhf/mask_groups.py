"""The mask module's own groups in the optimizer: its learning rate, its weight decay, and always Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from sparsepo_plugin.configured_loss import ConfiguredLoss

Groups = list[dict[str, Any]]


def split(groups: Groups, masks: nn.Module, objective: ConfiguredLoss, policy_rate: float) -> Groups:
    """Take the mask module's parameters out of ``groups`` and add groups of their own.

    Args:
      groups: parameter groups of the whole model.
      masks: the mask module; ``decayed_parameters`` says which of its parameters are weights.
      objective: gives learning rate and weight decay of the masks.
      policy_rate: learning rate of the policy.

    Returns:
      The groups without the masks, then at most two of masks; no group is empty.
    """
    own = {id(p) for p in masks.parameters()}
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in own]} for group in groups]
    decayed = {id(p) for p in masks.decayed_parameters()}  # type: ignore[operator]
    rate = objective.options.mask_learning_rate(policy_rate)
    for weight_decay, chosen in ((objective.options.mask_decay(), True), (0.0, False)):
        params = [p for p in masks.parameters() if (id(p) in decayed) is chosen]
        rest.append({"params": params, "lr": rate, "weight_decay": weight_decay})
    return [group for group in rest if group["params"]]


def muon(
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
        found = [
            {**common, "name": "mask-params", **group} if "use_muon" not in group else group
            for group in split(groups, masks, objective, policy_rate)
        ]
        return optimizer(found, *args, **options)

    return build
