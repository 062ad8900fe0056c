"""OpenRLHF's DeepSpeed strategy on any device, and the mask module inside the policy engine."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import deepspeed
import openrlhf.utils.deepspeed.deepspeed as upstream
import torch
import torch.distributed as dist
from deepspeed.runtime import engine as deepspeed_engine
from torch import nn

from sparsepo_plugin import checkpoint
from sparsepo_plugin.adapters import mask_parameters
from sparsepo_plugin.adapters.openrlhf import checkpoints, muon, universal
from sparsepo_plugin.adapters.openrlhf.checkpoints import MASK_MODULE, Saved
from sparsepo_plugin.adapters.openrlhf.length_batches import LengthBatchedLoading
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.patched import patched


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
            patched(torch.cuda, set_device=nothing, synchronize=nothing, current_device=lambda: "cpu")
        )
        stack.enter_context(
            patched(upstream, init_device_mesh=lambda _, *shape, **names: mesh("cpu", *shape, **names))
        )
        yield


class PortableStrategy(LengthBatchedLoading):
    """Upstream's strategy for any device; its checkpoints survive a kill at any moment.

    Attributes:
      record: what every checkpoint remembers of its run; see launch.checkpoint_record.
    """

    record: Mapping[str, Any] = MappingProxyType({})
    _random_state: dict[str, torch.Tensor] | None = None

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

    def save_ckpt(
        self,
        model: Any,
        save_dir: str,
        tag: str,
        max_num: int = 3,
        max_mem: int = 1000,
        client_state: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Save a DeepSpeed checkpoint, each process's random state with it; it counts once it is complete."""
        folder = Path(save_dir)
        if self.is_rank_0():
            checkpoints.begin(folder, tag)
        with _without_cuda():
            # Upstream makes room before it saves; we do after, so that a kill never leaves nothing. Two
            # more than asked for: the one being written is there already.
            super().save_ckpt(
                model, save_dir, tag, max_num + 2, max_mem, client_state, **{**options, "save_latest": False}
            )
        checkpoints.save_random_state(folder / tag, dist.get_rank())
        dist.barrier()
        if self.is_rank_0():
            masks = getattr(model.module, MASK_MODULE, None)
            dtype = None if masks is None else str(next(masks.parameters()).dtype).removeprefix("torch.")
            record = {"processes": self.world_size, "mask_dtype": dtype, **self.record}
            checkpoints.finish(folder, tag, record, max_num)

    def load_ckpt(self, model: Any, load_dir: str, tag: str | None = None, **options: Any) -> Any:
        """Load the last complete checkpoint; for another number of processes in its universal form.

        Returns:
          As upstream: path and client state; None and {} where there is nothing complete.
        """
        folder = Path(load_dir)
        dist.barrier()
        if self.is_rank_0():
            for name in checkpoints.remove_partial(folder):
                self.print(f"Deleted {folder / name}: it was not complete when its run was killed")
        dist.barrier()
        saved = checkpoints.to_resume(folder)
        if saved is None and not checkpoints.foreign(folder):
            self.print(f"No complete checkpoint in {folder}: training starts from the beginning")
            return None, {}
        if saved is None or saved.record["processes"] == self.world_size:
            with _without_cuda():
                loaded = super().load_ckpt(model, load_dir, saved.tag if saved else tag, **options)
            self._random_state = saved and checkpoints.load_random_state(folder / saved.tag, dist.get_rank())
            return loaded
        return self._load_universal(model, folder, saved, options)

    def _load_universal(self, model: Any, folder: Path, saved: Saved, options: dict[str, Any]) -> Any:
        self.print(
            f"{folder / saved.tag} was saved by {saved.record['processes']} processes and is loaded by "
            f"{self.world_size}: converting; random states start anew"
        )
        if self.stage == 0:  # holds everything in one file
            with _without_cuda():
                return super().load_ckpt(model, str(folder), saved.tag, **options)
        if self.is_rank_0():
            universal.convert(folder / saved.tag, folder / universal.name_of(saved.tag))
        dist.barrier()
        with _without_cuda(), patched(model._config, load_universal_checkpoint=True):
            loaded = super().load_ckpt(model, str(folder), universal.name_of(saved.tag), **options)
        if self.stage == 3:
            universal.mend_stage_3(model.optimizer.optimizer, folder / universal.name_of(saved.tag))
        return loaded

    def restore_random_state(self) -> None:
        """Continue the random sequence of the resumed run, once; nothing otherwise."""
        if self._random_state is not None:
            checkpoints.restore_random_state(self._random_state)
            self._random_state = None


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
