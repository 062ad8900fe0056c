"""Build upstream's Actor in every number format we accept."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from sparsepo_plugin.adapters import dropout
from sparsepo_plugin.adapters.openrlhf import quiet
from sparsepo_plugin.patched import patched


def build_actor(actor_class: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Upstream's Actor, which knows bf16 and fp16, in float32 too."""
    import openrlhf.utils.utils as utils

    convert = utils.convert_to_torch_dtype

    def with_float32(name: str) -> torch.dtype:
        return torch.float32 if name == "fp32" else convert(name)

    # A line on experts, of models without any too, and for the reference again.
    with patched(utils, convert_to_torch_dtype=with_float32), quiet.without_lines("[MoE]"):
        return actor_class(*args, **options)


def build_steady(actor_class: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """The same without dropout; of a policy, which upstream alone builds with LoRA's options, it is said."""
    actor = build_actor(actor_class, *args, **options)
    was = dropout.switch_off(actor.model)
    if was and "lora_rank" in options and os.environ.get("RANK", "0") == "0":
        print(f"dropout is off in the policy ({was} in its configuration); --model.dropout keeps it")
    return actor
