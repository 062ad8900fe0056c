"""Combinations of modes that cannot work, and what is missing on this machine: one clear line each."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import torch

from sparsepo_plugin.errors import UserError


def check_modes(
    arguments: SimpleNamespace, chosen: str | None, processes: int, *, elsewhere: bool = False
) -> None:
    """Refuse what would fail later, or train something else than was asked for.

    Args:
      arguments: upstream's arguments.
      chosen: the registered loss, as "--loss NAME"; None for upstream's own.
      processes: number of processes of the run.
      elsewhere: the run's processes are on other machines: what this one has says nothing of them.

    Raises:
      UserError: the first such mode.
    """
    cuda = elsewhere or torch.cuda.is_available()
    if arguments.ds.zero_stage not in (0, 1, 2, 3):
        raise UserError(f"--ds.zero_stage: got {arguments.ds.zero_stage}, expected 0, 1, 2 or 3")
    if arguments.data.length_batching and chosen is None:
        raise UserError("--data.length_batching: got upstream's own loss, expected --loss NAME, such as dpo")
    if arguments.ref.precompute and chosen is None:
        raise UserError("--ref.precompute: got upstream's own loss, expected --loss NAME, such as dpo")
    if not elsewhere:
        _check_attention(arguments.ds)
    _check_ring_attention(arguments.ds, chosen, elsewhere)
    _check_precision(arguments.ds, cuda)
    _check_quantisation(arguments.ds)
    _check_tensor_parallel(arguments.ds, processes)
    _check_compilers(arguments.ds, cuda, elsewhere)
    _check_muon(arguments)


def check_model(arguments: SimpleNamespace, config: Any) -> None:
    """Refuse modes that the kind of model rules out.

    Args:
      arguments: upstream's arguments.
      config: the policy's transformers configuration.

    Raises:
      UserError: the first such mode.
    """
    # Upstream's own criterion: this key of a configuration is what switches the balancing loss on.
    experts = "output_router_logits" in config.to_dict()
    if arguments.model.aux_loss_coef > 1e-8 and not experts:
        raise UserError(
            f"--model.aux_loss_coef {arguments.model.aux_loss_coef}: got a {config.model_type} model, "
            f"expected a mixture of experts with a balancing loss, such as mixtral; drop the flag"
        )
    size = arguments.ds.tensor_parallel_size
    if size > 1 and experts:
        raise UserError(
            f"--ds.tensor_parallel_size {size}: got a {config.model_type} model, "
            f"but DeepSpeed cannot split a mixture of experts; expected a dense model, or size 1"
        )


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _check_attention(ds: SimpleNamespace) -> None:
    if "flash" not in ds.attn_implementation:
        return
    flag = f"--ds.attn_implementation {ds.attn_implementation}"
    if not torch.cuda.is_available():
        raise UserError(f"{flag} needs CUDA: expected sdpa or eager")
    if ds.attn_implementation == "flash_attention_2" and not _installed("flash_attn"):
        raise UserError(f"{flag}: the package flash-attn is not installed; expected it, or sdpa or eager")


def _check_ring_attention(ds: SimpleNamespace, chosen: str | None, elsewhere: bool) -> None:
    if ds.ring_attn_size == 1:
        return
    flag = f"--ds.ring_attn_size {ds.ring_attn_size}"
    if chosen is not None:
        raise UserError(
            f"{flag} with {chosen}: got ring attention, expected 1; shorten --data.max_len instead, or use "
            f"--ds.zero_stage 3 with --model.gradient_checkpointing_enable"
        )
    if not elsewhere and not (torch.cuda.is_available() and _installed("ring_flash_attn")):
        raise UserError(f"{flag} needs CUDA and the packages flash-attn and ring-flash-attn: expected 1 here")


def _check_precision(ds: SimpleNamespace, cuda: bool) -> None:
    if ds.param_dtype == "fp16" and not cuda:
        raise UserError("--ds.param_dtype fp16 needs CUDA: expected bf16 or fp32")


def _check_quantisation(ds: SimpleNamespace) -> None:
    if not ds.load_in_4bit:
        return
    if ds.param_dtype != "bf16":
        raise UserError(f"--ds.load_in_4bit: got --ds.param_dtype {ds.param_dtype}, expected bf16")
    if ds.lora.rank == 0:
        raise UserError(
            "--ds.load_in_4bit: got --ds.lora.rank 0, but 4-bit weights cannot be trained; expected more"
        )
    if ds.zero_stage == 3:
        raise UserError(
            "--ds.load_in_4bit: got --ds.zero_stage 3, which cannot split 4-bit weights; expected 0, 1 or 2"
        )
    if not _installed("bitsandbytes"):
        raise UserError("--ds.load_in_4bit needs the package bitsandbytes: not installed")


def _check_tensor_parallel(ds: SimpleNamespace, processes: int) -> None:
    size = ds.tensor_parallel_size
    if size == 1:
        return
    if ds.param_dtype != "bf16":
        raise UserError(
            f"--ds.tensor_parallel_size {size}: got --ds.param_dtype {ds.param_dtype}, expected bf16"
        )
    if ds.zero_stage == 3:
        raise UserError(
            f"--ds.tensor_parallel_size {size}: got --ds.zero_stage 3, with which transformers cannot load "
            f"a model; expected 0, 1 or 2"
        )
    if ds.lora.rank:
        raise UserError(
            f"--ds.tensor_parallel_size {size}: got --ds.lora.rank {ds.lora.rank}, but DeepSpeed's split "
            f"layers pass an adapter by, so that it would not train; expected rank 0"
        )
    if size < 1 or processes % size:
        raise UserError(
            f"--ds.tensor_parallel_size {size}: got {processes} processes, expected a multiple of {size}"
        )


def _check_muon(arguments: SimpleNamespace) -> None:
    stage = arguments.ds.zero_stage
    if arguments.optim == "muon" and stage in (0, 3):
        reason = "is plain gradient descent" if stage == 0 else "does not start with upstream's settings"
        raise UserError(
            f"--optim muon: got --ds.zero_stage {stage}, where DeepSpeed's Muon {reason}; expected 1 or 2"
        )


def _check_compilers(ds: SimpleNamespace, cuda: bool, elsewhere: bool) -> None:
    if ds.deepcompile and not cuda:
        raise UserError("--ds.deepcompile needs CUDA: drop it")
    if ds.use_liger_kernel and not elsewhere and not _installed("liger_kernel"):
        raise UserError("--ds.use_liger_kernel needs the package liger-kernel: not installed")
