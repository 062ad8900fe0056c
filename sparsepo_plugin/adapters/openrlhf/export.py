"""A DeepSpeed checkpoint to a plain Hugging Face folder and the mask module beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsepo_plugin import checkpoint, files
from sparsepo_plugin.adapters.openrlhf import checkpoints, merging, saving
from sparsepo_plugin.adapters.openrlhf.checkpoints import Saved
from sparsepo_plugin.errors import UserError

_MASKS = f"{checkpoints.MASK_MODULE}."


def export(source: Path, out: Path, *, merge: bool = False) -> str:
    """Write the policy of a DeepSpeed checkpoint as a plain Hugging Face folder (or LoRA adapter).

    What was written is read again and must give the checkpoint's logits before it gets its name.

    Args:
      source: folder of checkpoints (the newest one is taken), or one checkpoint's folder.
      out: a folder that does not exist or is empty.
      merge: merge a LoRA adapter into its base.

    Returns:
      One line on what was written.

    Raises:
      UserError: no complete checkpoint, a damaged one, or ``out`` is not empty or takes no model.
      RunFailedError: what was written does not give the checkpoint's logits; nothing is left of it.
    """
    folder, saved = _locate(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: got a file or a folder with files, expected a new or an empty folder")
    files.check_folder(out, f"--out {out}")
    plan = saved.record["build"]
    rank = plan["actor"]["lora_rank"]
    if merge and not rank:
        raise UserError(f"--merge: {folder / saved.tag} holds a whole model, expected a LoRA adapter")
    if merge and plan["actor"]["load_in_4bit"]:
        raise UserError(
            f"--merge: {folder / saved.tag} holds an adapter of 4-bit weights, into which no merge is exact; "
            "export the adapter, and load it on the base in 4 bit"
        )
    state = _read(folder, saved)
    masks = {name.removeprefix(_MASKS): state.pop(name) for name in list(state) if name.startswith(_MASKS)}
    staging = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        _write_policy(plan, state, staging, merge)
        if masks:
            dtype = getattr(torch, saved.record["mask_dtype"])
            checkpoint.save_masks(staging, {n: v.to(dtype) for n, v in masks.items()}, plan["masks"])
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            if out.exists():
                out.rmdir()
            os.replace(staging, out)
        except OSError as error:  # it was empty above: another export was faster
            raise UserError(
                f"--out {out}: something else was written there meanwhile ({error.strerror}); "
                "look at it, or choose another folder"
            ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    kind = "LoRA adapter" if rank and not merge else "model"
    return f"exported step {saved.step} of {folder} to {out}: {kind}{', mask module' if masks else ''}"


def _locate(source: Path) -> tuple[Path, Saved]:
    if source.is_dir() and (source / checkpoints.COMPLETE).exists():
        one = source.absolute()
        named = next((each for each in checkpoints.complete(one.parent) if each.tag == one.name), None)
        reason = checkpoints.damage(one.parent, named) if named else f"{checkpoints.COMPLETE} cannot be read"
        if named is None or reason is not None:
            raise UserError(f"--checkpoint {source}: {reason}; take another checkpoint of the run")
        return source.parent, named
    saved, damaged = checkpoints.look(source)
    if damaged:
        tag, reason = next(iter(damaged.items()))
        other = f"export {source / saved.tag} instead" if saved else "no other one there is whole"
        raise UserError(f"--checkpoint {source / tag}: {reason}; {other}")
    if saved is None:
        partial = (source / checkpoints.PARTIAL).exists() or any(source.glob(f"*/{checkpoints.PARTIAL}"))
        got = "one that was not written to its end" if partial else "none"
        raise UserError(f"--checkpoint {source}: got {got}, expected a complete checkpoint of sparsepo train")
    return source, saved


def _read(folder: Path, saved: Saved) -> dict[str, Tensor]:
    """The weights in float32 (ZeRO's master copy), or as they are where ZeRO kept none."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    try:
        if list((folder / saved.tag).glob("*optim_states.pt")):
            return dict(get_fp32_state_dict_from_zero_checkpoint(str(folder), saved.tag))
        (file,) = (folder / saved.tag).glob("mp_rank_*_model_states.pt")
        # Written by DeepSpeed on this user's machines; it holds more than tensors.
        return dict(torch.load(file, map_location="cpu", weights_only=False)["module"])
    # Whatever a damaged pickle, zip or missing shard raises, the cause is the checkpoint.
    except Exception as error:
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        place = folder / saved.tag
        raise UserError(f"--checkpoint {place}: cannot be read ({reason}); take another of the run") from None


def _write_policy(plan: dict[str, Any], state: dict[str, Tensor], folder: Path, merge: bool) -> None:
    from sparsepo_plugin.adapters.openrlhf.actors import build_actor
    from sparsepo_plugin.adapters.openrlhf.preflight import load_config
    from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf

    load_config(plan["model"], "base model of the checkpoint:", plan["trust_remote_code"])
    import_openrlhf()
    from openrlhf.models import Actor
    from openrlhf.utils import get_tokenizer

    # The run's kernel need not be installed here.
    actor = {**plan["actor"], "attn_implementation": "eager"}
    lora = bool(actor["lora_rank"])
    model: Any = build_actor(Actor, plan["model"], **actor).model
    tokenizer = get_tokenizer(plan["model"], model, "right", None, use_fast=plan["fast_tokenizer"])
    if plan.get("chat_template"):
        tokenizer.chat_template = plan["chat_template"]
    _load(model, state, lora=lora)
    if merge:
        model = merging.merge(model, _load_dtype(actor["param_dtype"]))
    size = saving.size_of(model, adapter=lora and not merge)
    if reason := saving.obstacle(folder.parent, size):
        raise UserError(f"--out: {reason}; choose another folder, or make room")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if lora and not merge:
        saving.complete_adapter(folder)
    if not actor["load_in_4bit"]:
        merging.check_written(model, folder, plan["trust_remote_code"])


def _load_dtype(name: str) -> torch.dtype:
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def _load(model: nn.Module, state: dict[str, Tensor], *, lora: bool) -> None:
    missing, unexpected = model.load_state_dict(state, strict=False)
    own = dict(model.named_parameters())  # a tied weight is listed once
    lost = [name for name in missing if name in own and ("lora_" in name or not lora)]
    if lost or unexpected:
        raise UserError(
            f"the checkpoint does not fit its base model: missing {lost[:3]}, unexpected {unexpected[:3]}; "
            f"expected the base model that the run was started with"
        )
