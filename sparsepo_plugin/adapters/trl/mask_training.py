"""The mask module beside the policy: its parameter groups, its gradients, its files.

It is no submodule of the policy: DDP would have to know of it, its parameters would land in the saved model,
and PEFT would freeze it. What the trainer then does for the policy has to be done for it as well: averaging
gradients over processes, clipping, zeroing, saving, resuming.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from sparsepo_plugin import checkpoint
from sparsepo_plugin.adapters import mask_parameters
from sparsepo_plugin.adapters.trl.mask_optimizer import OPTIMIZERS, MaskOptimizer
from sparsepo_plugin.configured_loss import ConfiguredLoss


class MaskTraining:
    """The mask source of one run and everything that keeps it trained alike on all processes.

    Args:
      objective: loss, options and reference shape.
      seed: seed of the module's initial weights; equal on all processes.
      device: where the policy is.
      apart: the policy's optimizer must not be given the module's parameters.
    """

    def __init__(self, objective: ConfiguredLoss, seed: int, device: torch.device, *, apart: bool) -> None:
        self.objective, self.apart = objective, apart
        self.optimizer: MaskOptimizer | None = None
        self.module: nn.Module = objective.build_masks(seed).to(device)
        self.parameters = list(self.module.parameters())
        self._stale = False

    @property
    def learned(self) -> bool:
        """Whether there is anything to train and to save."""
        return bool(self.parameters)

    def add_to(self, optimizer: Optimizer, args: Any) -> None:
        """Give the module its parameter groups, once: weights with decay, biases and norms without.

        Args:
          optimizer: the policy's; gets the groups where it may and is one of OPTIMIZERS, else the module gets
            an optimizer of its own.
          args: training arguments.
        """
        if not self.learned:
            return
        groups = mask_parameters.groups_of(self.module, self.objective, args.learning_rate)
        if self.apart or type(optimizer) not in OPTIMIZERS:
            self.optimizer = self.optimizer or MaskOptimizer(groups, args)
            return
        present = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if id(self.parameters[0]) not in present:
            for group in groups:
                optimizer.add_param_group(group)

    def before_backward(self) -> None:
        """Drop the gradients that the last optimizer step used: the trainer zeroes the policy's only."""
        if self._stale:
            for parameter in self.parameters:
                parameter.grad = None
        self._stale = False

    def after_backward(self, *, step_follows: bool) -> None:
        """Average the gradients over all processes where an optimizer step follows, as DDP does."""
        self._stale = step_follows
        if step_follows and self.learned and dist.is_initialized() and dist.get_world_size() > 1:
            self.average_gradients()

    def average_gradients(self) -> None:
        """All-reduce the gradients to their mean; one that is missing counts as 0."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()

    def save(self, folder: str | Path) -> None:
        """Write the module beside a checkpoint; where nothing is learned, what an earlier run left goes."""
        if self.learned:
            state = mask_parameters.state_of(self.module)
            checkpoint.save_masks(Path(folder), state, self.objective.record())
        else:
            checkpoint.remove_masks(Path(folder))

    def load(self, folder: str | Path) -> None:
        """Read the module of a checkpoint folder into this one, in place, so that the optimizer keeps it.

        Raises:
          UserError: no mask module there, or one of another loss, other options, or another reference.
        """
        if self.learned:
            mask_parameters.load(folder, self.module, self.objective)
