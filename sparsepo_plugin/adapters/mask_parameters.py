"""The mask module's parameters under any trainer: their groups in its optimizer, their files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsepo_plugin import checkpoint
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.run_folder import configuration

Groups = list[dict[str, Any]]


def groups_of(masks: nn.Module, objective: ConfiguredLoss, policy_rate: float) -> Groups:
    """Parameter groups of the masks, at most two: weights with decay, biases and norms without.

    Args:
      masks: the mask module; ``decayed_parameters`` says which of its parameters are weights.
      objective: gives learning rate and weight decay of the masks.
      policy_rate: learning rate of the policy.
    """
    parameters = list(masks.parameters())
    if not parameters:
        return []
    decayed = {id(parameter) for parameter in masks.decayed_parameters()}  # type: ignore[operator]
    rate = objective.options.mask_learning_rate(policy_rate)
    groups = [
        {
            "params": [p for p in parameters if (id(p) in decayed) is weights],
            "lr": rate,
            "weight_decay": decay,
        }
        for weights, decay in ((True, objective.options.mask_decay()), (False, 0.0))
    ]
    return [group for group in groups if group["params"]]


def regroup(groups: Groups, masks: nn.Module, objective: ConfiguredLoss, policy_rate: float) -> Groups:
    """Groups of a model that contains the masks, with the masks in groups of their own; none is empty.

    Args:
      groups: parameter groups of the whole model.
      masks: as ``groups_of``, like the other arguments.
      objective: as above.
      policy_rate: as above.
    """
    of_masks = {id(parameter) for parameter in masks.parameters()}
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in of_masks]} for group in groups]
    return [group for group in rest if group["params"]] + groups_of(masks, objective, policy_rate)


def state_of(masks: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's parameters, which must be whole, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in masks.state_dict().items()}


def recorded_options(folder: Path, loss: str) -> dict[str, Any]:
    """Options of a loss that a checkpoint, or else the run around it, wrote down; empty where neither did."""
    record = checkpoint.read_record(folder)
    if record is None:  # nothing is learned, so the checkpoint holds no masks
        record = configuration.read_run(folder.parent)
    return dict(record.get("options", {})) if record.get("loss") == loss else {}


def load(folder: str | Path, masks: nn.Module, objective: ConfiguredLoss) -> None:
    """Read the mask module of a checkpoint folder into ``masks``, in place, so that the optimizer keeps it.

    Raises:
      UserError: no mask module there, or one of another loss, other options, or another reference.
    """
    saved = checkpoint.load_masks(folder)
    if saved.loss.name != objective.loss.name:
        raise UserError(
            f"{folder}: its mask module was trained with loss {saved.loss.name}, "
            f"expected {objective.loss.name}"
        )
    for field in dataclasses.fields(saved.options):
        was, now = getattr(saved.options, field.name), getattr(objective.options, field.name)
        if was != now and field.metadata["affects"] == "masks":
            raise UserError(
                f"option {field.name}: got {now!r}, expected {was!r}, as in the checkpoint {folder}; "
                f"set it back, or start anew"
            )
    try:
        masks.load_state_dict(saved.module.state_dict())
    except RuntimeError as error:
        raise UserError(
            f"{folder}: its mask module does not fit this reference model: {' '.join(str(error).split())}"
        ) from None
