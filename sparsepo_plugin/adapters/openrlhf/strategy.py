"""The mask module inside OpenRLHF's policy engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.runtime import engine as deepspeed_engine
from torch import nn

from sparsepo_plugin import checkpoint
from sparsepo_plugin.adapters import mask_parameters
from sparsepo_plugin.adapters.openrlhf import muon, reference_first
from sparsepo_plugin.adapters.openrlhf.checkpoints import MASK_MODULE
from sparsepo_plugin.adapters.openrlhf.keeping import PortableStrategy
from sparsepo_plugin.adapters.openrlhf.reference_first import AbsentReference
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.patched import patched


class PreferenceStrategy(PortableStrategy):
    """Adds the loss's mask module to the policy engine, as its own parameter groups.

    Args:
      objective: loss, options and reference shape.
      options: upstream's arguments.
    """

    def __init__(self, *, objective: ConfiguredLoss, **options: Any) -> None:
        super().__init__(**options)
        self.objective = objective
        self._grad_norm = 0.0
        self._masks_to_write: dict[str, torch.Tensor] | None = None
        self._datasets: list[Any] = []

    def setup_dataloader(self, replay_buffer: Any, *args: Any, **options: Any) -> Any:
        """Upstream's; the data sets are remembered for --ref.precompute."""
        self._datasets.append(replay_buffer)
        return super().setup_dataloader(replay_buffer, *args, **options)

    def prepare(self, *models: Any) -> Any:
        """Upstream's engines; a reference that is absent in the training runs before there are any."""
        absent = models[-1]
        if isinstance(absent, AbsentReference) and self.objective.needs.reference:
            reference_first.run(self, absent, self._datasets)
        return super().prepare(*models)

    def _ds_init_eval_model(self, model: Any) -> Any:
        return model if isinstance(model, AbsentReference) else super()._ds_init_eval_model(model)

    def _ds_init_train_model(self, model: Any, cfg: dict[str, Any]) -> Any:
        masks = self.objective.build_masks(self.seed)
        if not any(True for _ in masks.parameters()):
            return super()._ds_init_train_model(model, cfg)
        # ZeRO-3 defragments all trainable parameters into one buffer: they must share a dtype.
        dtype = next(p.dtype for p in model.model.parameters() if p.requires_grad)
        model.model.add_module(MASK_MODULE, masks.to(dtype))
        optimizer = muon.sparing_masks(
            deepspeed_engine.MuonWithAuxAdam, masks, self.objective, self.args.adam.lr
        )
        with patched(deepspeed_engine, MuonWithAuxAdam=optimizer):
            return super()._ds_init_train_model(model, cfg)

    def _get_model_parameters(self, model: nn.Module, **options: Any) -> Any:
        raw_model, groups = super()._get_model_parameters(model, **options)
        masks = getattr(raw_model, MASK_MODULE, None)
        # Muon gets bare parameters, which DeepSpeed groups later.
        if masks is None or options.get("optim") == "muon":
            return raw_model, groups
        return raw_model, mask_parameters.regroup(groups, masks, self.objective, self.args.adam.lr)

    def optimizer_step(self, optimizer: Any, model: Any, scheduler: Any, *args: Any, **options: Any) -> None:
        """Upstream's; where DeepSpeed does not keep the norm of the gradient, it is taken first."""
        engine = model.model
        if not self._keeps_norm(engine) and engine.is_gradient_accumulation_boundary():
            gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
            self._grad_norm = float(torch.nn.utils.get_total_norm(gradients))
        super().optimizer_step(optimizer, model, scheduler, *args, **options)

    def get_grad_norm(self, model: Any) -> float:
        """Norm of the whole gradient before clipping; upstream says 0 in float32 at ZeRO stage 0."""
        norm: float = super().get_grad_norm(model) if self._keeps_norm(model.model) else self._grad_norm
        return norm

    def _keeps_norm(self, engine: Any) -> bool:
        return hasattr(engine.optimizer, "_global_grad_norm")

    def save_model(self, model: nn.Module, tokenizer: Any, output_dir: str, **options: Any) -> None:
        """Save the policy as a plain Hugging Face folder and the mask module beside it."""
        raw = self._unwrap_model(model)
        masks = getattr(raw, MASK_MODULE, None)
        if masks is None:
            super().save_model(model, tokenizer, output_dir, **options)
            return
        with deepspeed.zero.GatheredParameters(list(masks.parameters()), enabled=self.stage == 3):
            state = mask_parameters.state_of(masks)
        delattr(raw, MASK_MODULE)
        self._masks_to_write = state
        try:
            super().save_model(model, tokenizer, output_dir, **options)
        finally:
            raw.add_module(MASK_MODULE, masks)

    def _write_beside(self, folder: Path) -> None:
        if self._masks_to_write is not None:
            checkpoint.save_masks(folder, self._masks_to_write, self.objective.record())
