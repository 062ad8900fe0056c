"""What a TRL trainer does for its policy and has to do for the mask module too: step, clip, save, resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from trl import DPOTrainer

from sparsepo_plugin import checkpoint
from sparsepo_plugin.adapters import mask_parameters
from sparsepo_plugin.adapters.step import PreferenceStep
from sparsepo_plugin.adapters.trl import refusals
from sparsepo_plugin.adapters.trl.mask_training import MaskTraining
from sparsepo_plugin.adapters.trl.sharding import Spread, clip_together, load_adapter
from sparsepo_plugin.configured_loss import ConfiguredLoss

if TYPE_CHECKING:

    class _Upstream(DPOTrainer):
        """What stands behind the mixin in the bases."""
else:

    class _Upstream:
        """Nothing: upstream's trainer stands behind the mixin in the bases."""


class MaskHooks(_Upstream):
    """Overrides of TRL's trainer; ``PreferenceMixin`` sets the attributes.

    Attributes:
      mask_training: the mask module of the run.
      preference_objective: its loss and options.
    """

    mask_training: MaskTraining
    preference_objective: ConfiguredLoss
    _preference_step: PreferenceStep
    _spread: Spread
    _rate_share = 1.0

    def create_optimizer(self, *args: Any, **options: Any) -> Any:
        """Upstream's optimizer, with the mask module's groups added, or beside it the module's own."""
        made = super().create_optimizer(*args, **options)
        self.mask_training.add_to(self.optimizer, self.args)
        return made

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        """Upstream's forward and backward; then the mask module's gradients are averaged over processes."""
        self.mask_training.before_backward()
        group = self.optimizer.param_groups[0]
        # Read here, because DeepSpeed's backward pass ends with its optimizer's step and the scheduler's.
        self._rate_share = group["lr"] / group.get("initial_lr", self.args.learning_rate)
        loss = super().training_step(*args, **options)
        self.mask_training.after_backward(step_follows=self.accelerator.sync_gradients)
        return loss

    def step_masks(self) -> None:
        """Step the mask module's own optimizer, where it has one, whenever the policy's steps."""
        if self.mask_training.optimizer is None or self.accelerator.optimizer_step_was_skipped:
            return
        if self._spread.kind == "deepspeed" and (most := self.model_wrapped.gradient_clipping()):
            torch.nn.utils.clip_grad_norm_(self.mask_training.parameters, most)
        self.mask_training.optimizer.step(self._rate_share)

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip policy and mask module by their common norm, as where they are one model."""
        if self._spread.kind == "deepspeed":  # the engine has clipped the policy, and stepped it
            return super()._clip_grad_norm(model)
        if self._spread.kind == "fsdp2":
            return clip_together(
                list(model.parameters()), self.mask_training.parameters, self.args.max_grad_norm
            )
        parameters = [*model.parameters(), *self.mask_training.parameters]
        return self.accelerator.clip_grad_norm_(parameters, self.args.max_grad_norm)

    def save_model(self, output_dir: str | None = None, *args: Any, **options: Any) -> None:
        """Upstream's files, and the mask module beside them."""
        super().save_model(output_dir, *args, **options)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)  # where upstream has left the weights to FSDP
            self.mask_training.save(folder)
            if not hasattr(self.model, "peft_config"):
                checkpoint.remove_adapter(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save and self.mask_training.optimizer is not None:
            self.mask_training.optimizer.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            refusals.check_resuming(self.args)
            self._load_adapter(checkpoint)
            self._keep_earlier_defaults(Path(checkpoint))
            self.mask_training.load(checkpoint)
            if self.mask_training.optimizer is not None:
                self.mask_training.optimizer.load(checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _keep_earlier_defaults(self, folder: Path) -> None:
        """Go on with the defaults of the version that began the run, where ours are others."""
        objective = self.preference_objective
        recorded = mask_parameters.recorded_options(folder, objective.loss.name)
        options = objective.options.as_begun(recorded, self.args.loss_options)
        if options == objective.options:
            return
        for line in options.lines(objective.loss.name, objective.options):
            self.accelerator.print(line)
        objective = dataclasses.replace(objective, options=options)
        self.preference_objective = self.mask_training.objective = objective
        self._preference_step.objective = objective

    def _load_adapter(self, folder: str) -> None:
        if self._spread.kind == "fsdp2" and hasattr(self.model, "peft_config"):
            load_adapter(self.model, folder)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_adapter(self.state.best_model_checkpoint)
        self.mask_training.load(self.state.best_model_checkpoint)
