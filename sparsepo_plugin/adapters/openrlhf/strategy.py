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
from openrlhf.utils.deepspeed import DeepspeedStrategy
from torch import nn

from sparsepo_plugin import checkpoint
from sparsepo_plugin.adapters.objective import Objective
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
        with _without_cuda():
            super().setup_distributed(timeout)

    def get_ds_train_config(self, optim_dict: dict[str, Any] | None = None, **limits: Any) -> dict[str, Any]:
        """Upstream's configuration; on CPU with torch's AdamW, which needs no compiler."""
        config: dict[str, Any] = super().get_ds_train_config(optim_dict, **limits)
        if not torch.cuda.is_available() and optim_dict and optim_dict["type"] == "AdamW":
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

    def _ds_init_train_model(self, model: Any, cfg: dict[str, Any]) -> Any:
        masks = self.objective.build_masks(self.seed)
        if any(True for _ in masks.parameters()):
            # ZeRO-3 defragments all trainable parameters into one buffer: they must share a dtype.
            dtype = next(p.dtype for p in model.model.parameters() if p.requires_grad)
            model.model.add_module(MASK_MODULE, masks.to(dtype))
        return super()._ds_init_train_model(model, cfg)

    def _get_model_parameters(self, model: nn.Module, **options: Any) -> Any:
        raw_model, groups = super()._get_model_parameters(model, **options)
        masks = getattr(raw_model, MASK_MODULE, None)
        if masks is None:
            return raw_model, groups
        own = {id(p) for p in masks.parameters()}
        groups = [{**group, "params": [p for p in group["params"] if id(p) not in own]} for group in groups]
        decayed = {id(p) for p in masks.decayed_parameters()}
        rate = self.objective.options.mask_learning_rate(self.args.adam.lr)
        for weight_decay, chosen in ((self.objective.options.mask_decay(), True), (0.0, False)):
            params = [p for p in masks.parameters() if (id(p) in decayed) is chosen]
            groups.append({"params": params, "lr": rate, "weight_decay": weight_decay})
        return raw_model, [group for group in groups if group["params"]]

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
