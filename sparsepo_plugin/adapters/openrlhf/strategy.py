"""OpenRLHF's DeepSpeed strategy on any device, and the mask module inside the policy engine."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import openrlhf.utils.deepspeed.deepspeed as upstream
import torch
from deepspeed.runtime import engine
from openrlhf.utils.deepspeed import DeepspeedStrategy
from torch import nn

from sparsepo_plugin import checkpoint
from sparsepo_plugin.adapters.objective import Objective
from sparsepo_plugin.adapters.openrlhf import mask_groups
from sparsepo_plugin.swap import swapped

MASK_MODULE = "sparsepo_masks"


@contextmanager
def _without_cuda() -> Iterator[None]:
    """Let upstream's calls of torch.cuda and its "cuda" mesh mean the CPU, where there is no CUDA."""
    if torch.cuda.is_available():
        yield
        return
    mesh = upstream.init_device_mesh
    with ExitStack() as stack:
        nothing: Callable[..., None] = lambda *_: None  # noqa: E731
        stack.enter_context(
            swapped(torch.cuda, set_device=nothing, synchronize=nothing, current_device=lambda: "cpu")
        )
        stack.enter_context(
            swapped(upstream, init_device_mesh=lambda _, *shape, **names: mesh("cpu", *shape, **names))
        )
        yield


class PortableStrategy(DeepspeedStrategy):
    """Upstream's strategy; on CUDA every method is upstream's own."""

    def setup_distributed(self, timeout: timedelta = timedelta(minutes=60)) -> None:
        """Start torch.distributed; without a launcher as a single process."""
        if not torch.cuda.is_available():
            _single_process_defaults()
            # DeepSpeed otherwise compiles a C++ all-reduce for minutes. The attribute path
            # deepspeed.comm.torch is torch itself, hence the look-up in sys.modules.
            sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
            # Nor is the arithmetic of Muon compiled, which takes minutes on CPU.
            torch.compiler.set_stance("force_eager")
        with _without_cuda():
            super().setup_distributed(timeout)

    def get_ds_train_config(self, optim_dict: dict[str, Any] | None = None, **limits: Any) -> dict[str, Any]:
        """Upstream's configuration; on CPU with torch's AdamW, also beside Muon: it needs no compiler."""
        config: dict[str, Any] = super().get_ds_train_config(optim_dict, **limits)
        if not torch.cuda.is_available() and optim_dict:
            config["optimizer"] = {**optim_dict, "params": {**optim_dict["params"], "torch_adam": True}}
        return config

    def all_reduce(self, data: Any, op: str = "mean") -> Any:
        """Reduce a number, tensor or dict over all processes."""
        with _without_cuda():
            return super().all_reduce(data, op)

    def all_gather(self, data: Any) -> Any:
        """Gather a number, tensor or dict of all processes."""
        with _without_cuda():
            return super().all_gather(data)

    def save_model(self, model: nn.Module, tokenizer: Any, output_dir: str, **options: Any) -> None:
        """Save a Hugging Face folder: written aside, then moved file by file, the config last."""
        staging = Path(output_dir) / ".saving"
        if self.is_rank_0():
            shutil.rmtree(staging, ignore_errors=True)
        with _without_cuda():
            super().save_model(model, tokenizer, str(staging), **options)
        if self.is_rank_0():
            checkpoint.publish(staging, Path(output_dir))

    def save_ckpt(self, *args: Any, **options: Any) -> None:
        """Save a DeepSpeed checkpoint."""
        with _without_cuda():
            super().save_ckpt(*args, **options)


class PreferenceStrategy(PortableStrategy):
    """Adds the loss's mask module to the policy engine, as its own parameter groups.

    Args:
      objective: loss, options and reference shape.
      options: upstream's arguments.
    """

    def __init__(self, *, objective: Objective, **options: Any) -> None:
        super().__init__(**options)
        self.objective = objective
        self._grad_norm = 0.0

    def _ds_init_train_model(self, model: Any, cfg: dict[str, Any]) -> Any:
        masks = self.objective.build_masks(self.seed)
        if not any(True for _ in masks.parameters()):
            return super()._ds_init_train_model(model, cfg)
        # ZeRO-3 defragments all trainable parameters into one buffer: they must share a dtype.
        dtype = next(p.dtype for p in model.model.parameters() if p.requires_grad)
        model.model.add_module(MASK_MODULE, masks.to(dtype))
        muon = mask_groups.muon(engine.MuonWithAuxAdam, masks, self.objective, self.args.adam.lr)
        with swapped(engine, MuonWithAuxAdam=muon):
            return super()._ds_init_train_model(model, cfg)

    def _get_model_parameters(self, model: nn.Module, **options: Any) -> Any:
        raw_model, groups = super()._get_model_parameters(model, **options)
        masks = getattr(raw_model, MASK_MODULE, None)
        # Muon gets bare parameters, which DeepSpeed groups later.
        if masks is None or options.get("optim") == "muon":
            return raw_model, groups
        return raw_model, mask_groups.split(groups, masks, self.objective, self.args.adam.lr)

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
            state = {name: value.detach().cpu().clone() for name, value in masks.state_dict().items()}
        delattr(raw, MASK_MODULE)
        try:
            super().save_model(model, tokenizer, output_dir, **options)
        finally:
            raw.add_module(MASK_MODULE, masks)
        if self.is_rank_0():
            checkpoint.save_masks(Path(output_dir), state, self.objective.record())


def _single_process_defaults() -> None:
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    defaults = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in defaults.items():
        os.environ.setdefault(name, str(value))
