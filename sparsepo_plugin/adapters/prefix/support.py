"""Which models cannot share a prefix, by what they say of themselves; the probe finds what they do not."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from sparsepo_plugin.adapters.prefix.attention import language_model

# Kinds of layers in which a token takes from others by attention under a mask alone.
_MASKED_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


def reason_against(model: nn.Module, *, training: bool, balancing: bool = False) -> str | None:
    """Why a model cannot share prefixes, in one line; None where nothing is known against it.

    Args:
      model: policy or reference, wrapped in whatever.
      training: the model will be trained: its dropout will be active.
      balancing: a balancing loss of a mixture of experts is part of the objective.
    """
    try:
        lm = language_model(model)
    except ValueError as error:
        return str(error)
    kind = lm.config.model_type
    if reason := _unlike_rows(lm):
        return f"{kind}: {reason}"
    if training and (dropout := _active_dropout(model)):
        return f"{kind}: dropout {dropout} would fall alike on both responses; set it to 0 to share prefixes"
    if balancing:
        return f"{kind}: the balancing loss counts every token that the router sees, shared ones once"
    return None


def _unlike_rows(model: PreTrainedModel) -> str | None:
    """Why the model's numbers would differ, or its masks cannot be given."""
    config = model.config
    if hasattr(config, "vision_config") or config.get_text_config() is not config:
        return "it reads more than text"
    if getattr(config, "alibi", False):
        return "its ALiBi biases count columns, not positions"
    if getattr(model, "_is_stateful", False):
        return "it carries a state from token to token, past the end of a response"
    others = set(getattr(config, "layer_types", None) or ()) - _MASKED_LAYERS
    if others:
        return f"it has layers of type {', '.join(sorted(others))}, not attention under a mask alone"
    if not getattr(model, "_supports_attention_backend", False):
        return "its code does not take attention from transformers' AttentionInterface"
    if getattr(config, "attn_temperature_tuning", False):
        return "its attention temperature (attn_temperature_tuning) counts columns, not positions"
    return None


def _active_dropout(model: nn.Module) -> str | None:
    """The first dropout in a module, as "name value"; transformers keeps those of attention as numbers."""
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return f"{path} {module.p}"
        for name, value in _numbers(module):
            if "drop" in name and value > 0:
                return f"{path}.{name} {value}"
    return None


def _numbers(module: nn.Module) -> list[tuple[str, float]]:
    attributes: list[tuple[str, Any]] = list(vars(module).items())
    return [(name, value) for name, value in attributes if isinstance(value, float)]
