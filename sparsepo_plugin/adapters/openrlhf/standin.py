"""Import OpenRLHF where flash-attn is absent.

``openrlhf.models.ring_attn_utils`` imports flash_attn when it is loaded, although only ring attention and
packing use it. A stand-in with the padding helpers, taken from transformers, is visible during that one
import and gone afterwards, so that nobody else believes flash-attn to be installed.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import logging
import sys
import types
from typing import Any, NoReturn

from torch import Tensor

_TARGET = "openrlhf.models.ring_attn_utils"


def import_openrlhf() -> None:
    """Load ``openrlhf.models``, with a temporary flash_attn stand-in where the real one is absent."""
    if _TARGET in sys.modules:
        return
    # It warns of a missing CPU kernel, which only 4-bit models would use, on every start.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if importlib.util.find_spec("flash_attn") is None:
        # These look for flash_attn when they are imported: they must see that it is absent.
        for name in (
            "deepspeed",
            "peft",
            "transformers.integrations.deepspeed",
            "transformers.modeling_utils",
        ):
            importlib.import_module(name)
        modules = _standins()
        sys.modules.update(modules)
        try:
            importlib.import_module(_TARGET)
        finally:
            for name in modules:
                sys.modules.pop(name, None)
    importlib.import_module("openrlhf.models")


def import_ray_launcher() -> types.ModuleType:
    """Load OpenRLHF's Ray launcher; its package's ``__init__`` imports vllm, which only PPO needs."""
    import_openrlhf()
    package = "openrlhf.trainer.ray"
    if package not in sys.modules and importlib.util.find_spec("vllm") is None:
        trainer = importlib.import_module("openrlhf.trainer")
        plain = _module(package, package=True)
        plain.__path__ = [f"{trainer.__path__[0]}/ray"]
        sys.modules[package] = plain
    return importlib.import_module(f"{package}.launcher")


def _module(name: str, *, package: bool = False, **attributes: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    # transformers raises on a module without a spec.
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=package)
    if package:
        module.__path__ = []
    module.__dict__.update(attributes)
    return module


def _standins() -> dict[str, types.ModuleType]:
    from einops import rearrange
    from transformers.modeling_flash_attention_utils import _unpad_input

    padding = {
        "index_first_axis": lambda value, indices: value[indices],
        "pad_input": _pad_input,
        "rearrange": rearrange,
        "unpad_input": _unpad_input,
    }
    modules = (
        _module("flash_attn", package=True),
        _module("flash_attn.utils", package=True),
        _module("flash_attn.utils.distributed", all_gather=_no_ring),
        _module("flash_attn.bert_padding", **padding),
    )
    return {module.__name__: module for module in modules}


def _pad_input(value: Tensor, indices: Tensor, batch: int, length: int) -> Tensor:
    """Spread packed rows [tokens, ...] over [batch, length, ...], differentiably."""
    out = value.new_zeros((batch * length, *value.shape[1:]))
    return out.index_copy(0, indices, value).view(batch, length, *value.shape[1:])


def _no_ring(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("ring attention needs the real flash-attn package")
