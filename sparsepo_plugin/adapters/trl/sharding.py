"""How accelerate spreads a model over processes: the ways accepted, and the reference's head made whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from sparsepo_plugin.adapters.trl.refusals import check_fsdp_version
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.head_weights import HeadWeights
from sparsepo_plugin.forward.sharding import Sharding, WholeModels

_WHOLE = ("NO", "MULTI_CPU", "MULTI_GPU")


class Spread(NamedTuple):
    """How the models of a run lie on its processes.

    Attributes:
      kind: "whole", "deepspeed" or "fsdp2".
      models: what a forward pass has to know of it.
    """

    kind: str
    models: Sharding

    @property
    def masks_apart(self) -> bool:
        """Whether the policy's optimizer knows the policy's parameters only."""
        return self.kind != "whole"


class ZeroThree(WholeModels):
    """Implements forward.sharding.Sharding for DeepSpeed's ZeRO-3."""

    collective = True

    @contextmanager
    def open_head(self, head: nn.Module) -> Iterator[HeadWeights]:
        """The head's weights, gathered; as they are while a pass of their model holds them whole."""
        import deepspeed
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

        parts = [p for p in head.parameters() if getattr(p, "ds_status", None) != ZeroParamStatus.AVAILABLE]
        with torch.no_grad(), deepspeed.zero.GatheredParameters(parts, enabled=bool(parts)):
            yield HeadWeights(head.weight, head.bias)  # type: ignore[arg-type]


class FullySharded(WholeModels):
    """Implements forward.sharding.Sharding for FSDP2."""

    collective = True

    @contextmanager
    def open_head(self, head: nn.Module) -> Iterator[HeadWeights]:
        """The head's weights, gathered; as they are while a pass of their model holds them whole."""
        with torch.no_grad():
            yield HeadWeights(_whole(head.weight), None if head.bias is None else _whole(head.bias))  # type: ignore[arg-type]


def _whole(parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return parameter
    # Offloaded parts lie on the CPU, where processes with accelerators do not talk to each other.
    moved: Any = parameter.to(parameter.device_mesh.device_type)
    return moved.full_tensor()


def spread_of(accelerator: Any) -> Spread:
    """Tell how an accelerator spreads models.

    Raises:
      UserError: a way in which the losses are not tested.
    """
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    if kind in _WHOLE:
        return Spread("whole", WholeModels())
    if accelerator.mixed_precision == "fp16":
        raise UserError(
            f"fp16 with {kind}: expected bf16 or float32: its loss scale is known to the policy's optimizer "
            f"alone, and the mask module has one of its own"
        )
    if kind == "DEEPSPEED":
        tensor = accelerator.state.deepspeed_plugin.deepspeed_config.get("tensor_parallel") or {}
        if (size := tensor.get("autotp_size", 1)) > 1:
            raise UserError(f"tensor_parallel.autotp_size: got {size}, expected 1; use ZeRO-3 instead")
        stage = accelerator.state.deepspeed_plugin.zero_stage
        return Spread("deepspeed", ZeroThree() if stage == 3 else WholeModels())
    if kind == "FSDP":
        check_fsdp_version(accelerator.state.fsdp_plugin.fsdp_version)
        return Spread("fsdp2", FullySharded())
    raise UserError(
        f"distributed type {kind}: expected one process, DDP, DeepSpeed or FSDP2; see docs/axolotl.md"
    )


def load_adapter(model: Any, folder: str | Path) -> None:
    """Read an adapter into an FSDP2 model, every process its part: accelerate reads it on one process only.

    Args:
      model: the PEFT model.
      folder: a checkpoint; one of sharded state dicts, without a whole adapter, is left to accelerate.

    Raises:
      UserError: the file lacks a parameter that is trained.
    """
    path = Path(folder) / "adapter_model.safetensors"
    if not path.exists():
        return
    saved = load_file(path)
    for name, parameter in model.named_parameters():
        if not (parameter.requires_grad and isinstance(parameter, DTensor)):
            continue
        key = name.replace(f".{model.active_adapter}.", ".").replace("_checkpoint_wrapped_module.", "")
        if key not in saved:
            raise UserError(f"{path}: got no {key}, expected every trained parameter; start anew")
        mesh, placements = parameter.device_mesh, parameter.placements
        whole = saved[key].to(mesh.device_type)
        with torch.no_grad():
            parameter.copy_(distribute_tensor(whole, mesh, placements, src_data_rank=None))


def clip_together(sharded: Sequence[Tensor], replicated: Sequence[Tensor], most: float) -> Tensor:
    """Clip gradients of which every process holds parts and others that it holds whole by their common norm.

    Args:
      sharded: parameters with gradients that are DTensors.
      replicated: parameters with plain ones.
      most: the largest norm.

    Returns:
      The norm before clipping.
    """
    norms = []
    for parameters in (sharded, replicated):
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    total = torch.stack(norms).norm()
    for parameters in (sharded, replicated):
        torch.nn.utils.clip_grads_with_norm_(parameters, most, total)
    return total
