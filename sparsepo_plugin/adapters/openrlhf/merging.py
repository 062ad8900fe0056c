"""Merging a LoRA adapter into its base, and proof by logits that nothing else was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsepo_plugin.errors import RunFailedError

# Largest difference of a logit, relative to the largest logit. In float32 only the order of sums differs; an
# adapter in a shorter format may be read in another than it was trained in.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}


def merge(model: Any, dtype: torch.dtype) -> Any:
    """Merge a PEFT model in float32 and round it to ``dtype`` afterwards.

    Where a layer with an adapter shares its weight with one without (tied embeddings), both get a weight of
    their own first: the adapter changes one of them only.

    Raises:
      RunFailedError: the merged model does not give the logits of base and adapter.
    """
    model = model.float()
    expected = logits(model)
    _untie(model)
    merged = model.merge_and_unload()
    _require_equal(expected, logits(merged), _TOLERANCE[torch.float32], "merging changes the model")
    return merged.to(dtype)


def check_written(model: Any, folder: Path, trust_remote_code: bool) -> None:
    """Read a model that has been written, as its users will, and compare it with the one in memory.

    Raises:
      RunFailedError: its logits are others.
    """
    from transformers import AutoModelForCausalLM

    dtype = next(p.dtype for name, p in model.named_parameters() if "lora_" not in name)
    expected = logits(model)
    # The kernel that the model in memory has.
    options = {"attn_implementation": model.config._attn_implementation, "dtype": dtype}
    read = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust_remote_code, **options)
    _require_equal(expected, logits(read), _TOLERANCE[dtype], "the written model is another")


def logits(model: Any) -> Tensor:
    """Logits of a few tokens, float32, [2, 12, vocabulary]."""
    size = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(size, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(input_ids=ids, use_cache=False).logits.float()


def _untie(model: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    holders: dict[int, int] = {}
    for module in base.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    for layer in (module for module in base.modules() if isinstance(module, BaseTunerLayer)):
        inner = layer.get_base_layer()
        if holders.get(id(inner.weight), 0) > 1:
            inner.weight = nn.Parameter(inner.weight.detach().clone(), requires_grad=False)
            base.config.get_text_config().tie_word_embeddings = False
            base.config.tie_word_embeddings = False
            base.all_tied_weights_keys = {}


def _require_equal(expected: Tensor, got: Tensor, tolerance: float, what: str) -> None:
    difference = float((expected - got).abs().max())
    limit = tolerance * max(1.0, float(expected.abs().max()))
    if not difference <= limit:
        raise RunFailedError(
            f"{what}: a logit differs by {difference:.3g}, expected no more than {limit:.3g}; nothing was "
            "written; export without --merge, and report this model"
        )
