"""Dropout of the policy: off, so that equal weights give equal numbers, as in the authors' code and TRL's.

A policy with dropout is compared with a reference without: GPT-2's default of 0.1 alone reads as a KL of
several nats per response before the first step, and as noise ever after. transformers keeps the rates as
modules, as numbers of modules and in the configuration, which some models read in every pass. The dropout of
LoRA layers has a flag of its own and is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_CONFIGURED = "_dropout_as_configured"
# Noise on what experts see, by the name that modules give it; in a configuration the same word may be a
# threshold, which evaluation has as well.
_NOISE = ("jitter_noise", "input_jitter_noise")


def switch_off(model: Any, *, configuration: bool = True) -> str | None:
    """Set every rate of a model to 0, but for those of LoRA layers.

    Args:
      model: a transformers model, with or without PEFT's layers.
      configuration: whether to set the configuration's numbers too; ``as_configured`` puts them back.

    Returns:
      What was on, such as "attn_pdrop 0.1, resid_pdrop 0.1"; None where nothing was.
    """
    rates: dict[str, float] = {}
    for path, module in model.named_modules():
        if "lora_dropout" in path:
            continue
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            rates[path.rpartition(".")[2]] = module.p
            module.p = 0.0
        for name, value in _rates(vars(module)):
            if name != "p":
                rates[name] = value
                setattr(module, name, 0.0)
    if configuration:
        numbers = _rates(vars(model.config), noise=())
        setattr(model, _CONFIGURED, dict(numbers))
        for name, _ in numbers:
            setattr(model.config, name, 0.0)
        # Those of heads that no language model has are on nowhere.
        rates = {k: v for k, v in numbers if not k.startswith(("summary_", "classifier_"))} or rates
    return ", ".join(f"{name} {value:g}" for name, value in sorted(rates.items())) or None


def _rates(values: dict[str, Any], noise: tuple[str, ...] = _NOISE) -> list[tuple[str, float]]:
    return [
        (name, value)
        for name, value in values.items()
        if isinstance(value, float) and value > 0 and ("drop" in name or name in noise)
    ]


@contextmanager
def as_configured(model: Any) -> Iterator[None]:
    """Within the context the configuration has its own rates again: this is how a model is saved."""
    numbers: dict[str, float] = getattr(model, _CONFIGURED, {})
    for name, value in numbers.items():
        setattr(model.config, name, value)
    try:
        yield
    finally:
        for name in numbers:
            setattr(model.config, name, 0.0)
