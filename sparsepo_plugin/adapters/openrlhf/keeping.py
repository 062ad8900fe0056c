"""What a training keeps: checkpoints that survive a kill at any moment, and the model in the end."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sparsepo_plugin import checkpoint
from sparsepo_plugin.adapters import dropout
from sparsepo_plugin.adapters.openrlhf import checkpoints, saving, universal
from sparsepo_plugin.adapters.openrlhf.checkpoints import MASK_MODULE, Saved
from sparsepo_plugin.adapters.openrlhf.data_order import OrderedLoading
from sparsepo_plugin.adapters.openrlhf.device import AnyDevice, without_cuda
from sparsepo_plugin.errors import RunFailedError
from sparsepo_plugin.patched import patched

_NO_LIMIT = 10**9


class PortableStrategy(AnyDevice, OrderedLoading):
    """Upstream's strategy for any device; its checkpoints survive a kill at any moment.

    Attributes:
      record: what every checkpoint remembers of its run; see run_identity.checkpoint_record.
    """

    record: Mapping[str, Any] = MappingProxyType({})
    _random_state: dict[str, torch.Tensor] | None = None

    def save_model(self, model: nn.Module, tokenizer: Any, output_dir: str, **options: Any) -> None:
        """Save a Hugging Face folder: written aside, then moved file by file, the config last.

        Raises:
          RunFailedError: the folder takes it no more; the message says where the model is instead.
        """
        folder, reason = self._place_for(model, Path(output_dir))
        staging = folder / ".saving"
        if self.is_rank_0():
            shutil.rmtree(staging, ignore_errors=True)
        with without_cuda(), dropout.as_configured(self._unwrap_model(model)):
            super().save_model(model, tokenizer, str(staging), **options)
        if self.is_rank_0():
            saving.complete_adapter(staging)
            self._write_beside(staging)
            checkpoint.publish(staging, folder)
        if reason:
            raise RunFailedError(f"{reason}; the model is in {folder} instead, move it")

    def _write_beside(self, folder: Path) -> None:
        """Write what belongs to a model that has just been written; the first process only."""

    def _place_for(self, model: nn.Module, folder: Path) -> tuple[Path, str | None]:
        """The folder that takes the model, the same for all processes; why it is another than asked for.

        It is chosen before the weights are gathered, in which all processes take part.
        """
        shared: list[Any] = [(folder, None)]
        if self.is_rank_0():
            raw = self._unwrap_model(model)
            size = saving.size_of(raw, adapter=hasattr(raw, "peft_config"))
            if (reason := saving.obstacle(folder, size)) and (other := saving.elsewhere(size)):
                shared = [(other, reason)]
        dist.broadcast_object_list(shared, src=0)
        chosen: tuple[Path, str | None] = shared[0]
        return chosen

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
        """Save a DeepSpeed checkpoint, each process's random state with it; it counts once it is complete.

        Raises:
          RunFailedError: it cannot be written; the last one is kept.
        """
        folder = Path(save_dir)
        try:
            if self.is_rank_0():
                checkpoints.begin(folder, tag)
            with without_cuda():
                # Upstream makes room before it saves, and would delete any folder beside the checkpoints; we
                # make room after, so that a kill never leaves nothing, and among checkpoints only.
                options |= {"save_latest": False, "max_num": _NO_LIMIT, "max_mem": _NO_LIMIT}
                super().save_ckpt(model, save_dir, tag, client_state=client_state, **options)
            checkpoints.save_random_state(folder / tag, dist.get_rank())
            dist.barrier()
            if self.is_rank_0():
                masks = getattr(model.module, MASK_MODULE, None)
                dtype = None if masks is None else str(next(masks.parameters()).dtype).removeprefix("torch.")
                record = {"processes": self.world_size, "mask_dtype": dtype, **self.record}
                checkpoints.finish(folder, tag, record, max_num, max_mem)
        # torch has an error of its own for a disk that is full.
        except (OSError, RuntimeError) as error:
            raise _not_written(folder, tag, error) from None

    def load_ckpt(self, model: Any, load_dir: str, tag: str | None = None, **options: Any) -> Any:
        """Load the last whole checkpoint; for another number of processes in its universal form.

        Returns:
          As upstream: path and client state; None and {} where there is nothing complete.

        Raises:
          UserError: there are checkpoints, but every one is damaged.
        """
        folder = Path(load_dir)
        chosen: list[Any] = [None]
        dist.barrier()
        if self.is_rank_0():
            for name in checkpoints.remove_partial(folder):
                self.print(f"Deleted {folder / name}: it was not complete when its run was killed")
            chosen = [checkpoints.to_resume(folder)]
            damaged = checkpoints.look(folder).damaged
            for name, reason in damaged.items():
                self.print(f"{folder / name} is damaged: {reason}; going back to {chosen[0].tag}")
            checkpoints.set_aside(folder, damaged)
        dist.broadcast_object_list(chosen, src=0)
        saved: Saved | None = chosen[0]
        if saved is None and not checkpoints.foreign(folder):
            self.print(f"No complete checkpoint in {folder}: training starts from the beginning")
            return None, {}
        if saved is None or saved.record["processes"] == self.world_size:
            try:
                with without_cuda():
                    state = super().load_ckpt(model, load_dir, saved.tag if saved else tag, **options)
            # Whatever a damaged pickle or zip raises, the cause is the checkpoint.
            except Exception as error:
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise RunFailedError(
                    f"{folder / saved.tag if saved else folder}: cannot be loaded ({reason}); "
                    "delete it to go on from the one before"
                ) from None
            self._random_state = saved and checkpoints.load_random_state(folder / saved.tag, dist.get_rank())
            return state
        return self._load_universal(model, folder, saved, options)

    def _load_universal(self, model: Any, folder: Path, saved: Saved, options: dict[str, Any]) -> Any:
        self.print(
            f"{folder / saved.tag} was saved by {saved.record['processes']} processes and is loaded by "
            f"{self.world_size}: converting; random states start anew"
        )
        if self.stage == 0:  # holds everything in one file
            with without_cuda():
                return super().load_ckpt(model, str(folder), saved.tag, **options)
        if self.is_rank_0():
            universal.convert(folder / saved.tag, folder / universal.name_of(saved.tag))
        dist.barrier()
        with without_cuda(), patched(model._config, load_universal_checkpoint=True):
            state = super().load_ckpt(model, str(folder), universal.name_of(saved.tag), **options)
        if self.stage == 3:
            universal.mend_stage_3(model.optimizer.optimizer, folder / universal.name_of(saved.tag))
        return state

    def restore_random_state(self) -> None:
        """Continue the random sequence of the resumed run, once; nothing otherwise."""
        if self._random_state is not None:
            checkpoints.restore_random_state(self._random_state)
            self._random_state = None


def _not_written(folder: Path, tag: str, error: Exception) -> RunFailedError:
    reason = (getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).splitlines()[0]
    if "inline_container" in reason:  # torch's writer names its own line, whatever the disk said
        reason = "the disk took only a part of it; it is full, or fails"
    shutil.rmtree(folder / tag, ignore_errors=True)
    last = checkpoints.look(folder).saved
    kept = f"{last.tag} is kept: make room, then go on with --resume" if last else "there is no earlier one"
    return RunFailedError(f"{folder / tag}: the checkpoint cannot be written ({reason}), stopped; {kept}")
