"""Attention over shared rows: the model's own mask, at the positions that tokens have in their own rows.

Attention functions and mask functions are registered with transformers under names of ours. Where shared rows
are active, layers get the sequences that the rows stand for, or the mask a model asks for, sliding window
and all, evaluated at ``position_ids`` instead of columns; the parts of a row see each other as the rows they
stand for do. Where none are active, they do what transformers' functions of the same kind do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, flex_attention_mask, sdpa_mask

from sparsepo_plugin.adapters.prefix.eager import eager_attention
from sparsepo_plugin.adapters.prefix.gradient_check import checked
from sparsepo_plugin.adapters.prefix.layout import PREFIX, SharedRows
from sparsepo_plugin.adapters.prefix.spans import MaskFunction, SpanMask, span_mask
from sparsepo_plugin.adapters.prefix.varlen import (
    varlen_attention,
    varlen_eager_attention,
    varlen_flash_attention,
    written_out_without_extras,
)

# None of them holds the word flash: transformers from 5.17 on takes such a name for a kernel of its hub.
VARLEN, VARLEN_FLASH, VARLEN_EAGER = (f"sparsepo_prefix_varlen{kind}" for kind in ("", "_capped", "_eager"))
SDPA, EAGER, FLEX = "sparsepo_prefix_sdpa", "sparsepo_prefix_eager", "sparsepo_prefix_flex"
# Kernels that need no memory for what is not seen: for them all pairs stand in one row.
_SPARSE = (VARLEN, VARLEN_FLASH, VARLEN_EAGER, FLEX)
# Policy and reference, batches of one pair and of several, short and long rows, and every kind of mask are
# each a graph of their own to Dynamo, which runs FlexAttention unfused beyond 8 of them.
_GRAPHS = 64
_BEFORE = "_sparsepo_before_prefix"  # on a model: its kernel before, and the handles of our hooks


@dataclass
class _Use:
    """Shared rows and how often the model asked for a mask of them."""

    rows: SharedRows
    masks: int = 0


_USE: ContextVar[_Use | None] = ContextVar("shared_rows", default=None)


@contextmanager
def sharing(rows: SharedRows) -> Iterator[None]:
    """Make every attached model that runs inside read its input as these rows.

    The model is called with ``rows.token_ids`` and any attention mask and position_ids: both are replaced.
    Only the forward pass need be inside: the masks are inputs of the layers, which checkpointing keeps.

    Raises:
      RuntimeError: the model ran without asking for a mask, so its numbers are not those of shared rows.
    """
    use = _Use(rows)
    token = _USE.set(use)
    try:
        yield
    finally:
        _USE.reset(token)
    if not use.masks:
        raise RuntimeError(
            "shared rows: the model asked for no mask of them: it is not attached, or its code makes its own"
        )


def attach(model: nn.Module, kernel: str | None = None) -> None:
    """Switch a model, wrapped in whatever, to the attention of shared rows until ``detach``.

    Args:
      model: holds a PreTrainedModel, possibly in an engine or an adapter.
      kernel: one of ours; by default the one with a mask that stands for the model's present attention.

    Raises:
      ValueError: it is attached already.
    """
    lm = language_model(model)
    if hasattr(lm, _BEFORE):
        raise ValueError(f"{type(lm).__name__} is attached already: expected attach once, or detach first")
    before, kernel = lm.config._attn_implementation, kernel or kernel_for(lm)
    if kernel == FLEX:
        _allow_graphs()
    lm.set_attn_implementation(kernel)
    # Wrappers reach the model by different doors: OPT's head calls its decoder, adapters skip __call__.
    doors = {id(m): m for m in (lm, lm.base_model, lm.get_decoder()) if m is not None}
    handles = [
        door.register_forward_pre_hook(partial(_give_rows, _parameters(door)), with_kwargs=True)
        for door in doors.values()
    ]
    setattr(lm, _BEFORE, (before, handles))


def detach(model: nn.Module) -> None:
    """Undo ``attach``; nothing where it was not called."""
    lm = language_model(model)
    if not hasattr(lm, _BEFORE):
        return
    before, handles = getattr(lm, _BEFORE)
    delattr(lm, _BEFORE)
    for handle in handles:
        handle.remove()
    lm.set_attn_implementation(before)


def language_model(model: nn.Module) -> PreTrainedModel:
    """The outermost transformers model inside a wrapper.

    Raises:
      ValueError: there is none.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise ValueError(f"{type(model).__name__} holds no transformers model: expected one")


def packs(*models: nn.Module) -> bool:
    """Whether all models, attached, read pairs that stand in one row at no cost."""
    return all(language_model(model).config._attn_implementation in _SPARSE for model in models)


def kernels_for(model: PreTrainedModel) -> list[str]:
    """The kernels of ours that may compute what the model's present attention does, best first."""
    before, second = str(model.config._attn_implementation), kernel_for(model)
    if second == FLEX:
        return [VARLEN_FLASH, FLEX, _dense(model)]
    return [VARLEN_EAGER if second == EAGER else VARLEN_FLASH if before != "sdpa" else VARLEN, second]


def kernel_for(model: PreTrainedModel) -> str:
    """The kernel of ours, of those with a mask, that computes what the model's present attention does.

    Flash attention takes no mask: on CUDA FlexAttention stands for it, with soft-caps and sinks. Where the
    model does not know FlexAttention, sdpa does, unless there are soft-caps or sinks, which sdpa leaves out.
    """
    before = str(model.config._attn_implementation)
    if before in ("sdpa", "eager"):
        return {"sdpa": SDPA, "eager": EAGER}[before]
    if model.device.type == "cuda" and getattr(model, "_supports_flex_attn", False):
        return FLEX
    return _dense(model)


def _dense(model: PreTrainedModel) -> str:
    plain = model._supports_sdpa and not getattr(model.config, "attn_logit_softcapping", None)
    return SDPA if plain else EAGER


def _allow_graphs() -> None:
    """Let Dynamo compile FlexAttention for every case that training has."""
    from torch import _dynamo

    _dynamo.config.recompile_limit = max(_dynamo.config.recompile_limit, _GRAPHS)


def mask_of_shared_rows(mask_function: MaskFunction, rows: SharedRows) -> MaskFunction:
    """A model's mask function as one over shared rows.

    Args:
      mask_function: (batch, head, query, key) to whether it is seen, on positions; scalars or tensors that
        broadcast, as sdpa, eager and FlexAttention call it.
      rows: what batch, query and key, now columns, mean.
    """
    segments, positions, pairs = rows.segments, rows.position_ids, rows.pairs

    def seen(batch: Any, head: Any, query: Any, key: Any) -> Any:
        of_query, of_key = segments[batch, query], segments[batch, key]
        own = mask_function(batch, head, positions[batch, query], positions[batch, key])
        same_pair = pairs[batch, query] == pairs[batch, key]
        visible = own & same_pair & ((of_key == PREFIX) | ((of_key == of_query) & (of_key > PREFIX)))
        # Padding sees itself: a softmax over nothing is NaN.
        return visible | ((of_query < PREFIX) & (query == key))

    return seen


def _parameters(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


def _give_rows(
    names: list[str], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Replace attention mask and positions by those of the active rows."""
    use = _USE.get()
    if use is None:
        return None
    given = {**dict(zip(names, args)), **kwargs}
    tokens = next((given[n] for n in ("input_ids", "inputs_embeds") if given.get(n) is not None), None)
    if tokens is not None and tokens.shape[:2] != use.rows.token_ids.shape:
        raise ValueError(
            f"{type(module).__name__}: got an input of shape {tuple(tokens.shape)} where shared rows are "
            f"{tuple(use.rows.token_ids.shape)}; expected rows.token_ids"
        )
    return (), {
        **given,
        "attention_mask": use.rows.attention_mask,
        "position_ids": use.rows.position_ids,
        "use_cache": False,
    }


def _masks(base: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """A mask function of transformers that knows shared rows."""

    def build(*args: Any, mask_function: MaskFunction, attention_mask: Tensor | None, **options: Any) -> Any:
        use = _USE.get()
        if use is None:
            return base(*args, mask_function=mask_function, attention_mask=attention_mask, **options)
        use.masks += 1
        own = {**options, **fixed, "allow_is_causal_skip": False, "attention_mask": None}
        return base(*args, mask_function=mask_of_shared_rows(mask_function, use.rows), **own)

    return build


def _span_masks(base: Callable[..., Any]) -> Callable[..., Any]:
    """A mask function of transformers that gives layers the sequences of shared rows instead of a mask."""

    def build(*args: Any, mask_function: MaskFunction, **options: Any) -> Any:
        use = _USE.get()
        if use is None:
            return base(*args, mask_function=mask_function, **options)
        use.masks += 1
        return sequences_of_shared_rows(mask_function, use.rows)

    return build


def sequences_of_shared_rows(mask_function: MaskFunction, rows: SharedRows) -> SpanMask:
    """A model's mask function over the sequences that shared rows stand for."""
    return span_mask(mask_function, rows.spans)


for _name, _attention, _mask in (
    (VARLEN, checked(varlen_attention, written_out_without_extras), _span_masks(sdpa_mask)),
    (VARLEN_FLASH, checked(varlen_flash_attention, varlen_eager_attention), _span_masks(sdpa_mask)),
    (VARLEN_EAGER, varlen_eager_attention, _span_masks(eager_mask)),
    (SDPA, sdpa_attention_forward, _masks(sdpa_mask)),
    (EAGER, eager_attention, _masks(eager_mask)),
    (FLEX, checked(flex_attention_forward, eager_attention), _masks(flex_attention_mask)),
):
    AttentionInterface.register(_name, _attention)
    AttentionMaskInterface.register(_name, _mask)
