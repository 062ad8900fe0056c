"""What is known of a model before its weights are loaded: whether they are whole, and what it has."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM

from sparsepo_plugin.adapters.pairs.account import Account
from sparsepo_plugin.errors import UserError

_LEARNED_POSITIONS = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?|position_embed)$")


def load_outline(name: str, flag: str, config: Any, trust: bool) -> nn.Module:
    """Build a model without its numbers; a local folder's files must hold every tensor.

    Args:
      name: folder or hub name; a hub's weights are not looked at.
      flag: what named it, for messages.
      config: its transformers configuration.
      trust: whether code that comes with the model may run.

    Returns:
      The model on the meta device.

    Raises:
      UserError: no weights, a file of them that is missing or cut, or weights of another model.
    """
    folder = Path(name)
    # Quantised weights are unlike the tensors of the model that is made of them.
    quantised = getattr(config, "quantization_config", None) is not None
    if not folder.is_dir() or quantised:
        with torch.device("meta"):
            outline: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
        return outline
    for path in _weight_files(folder, flag):
        _check_whole(path, flag)
    try:
        with _silent_transformers():
            model, report = AutoModelForCausalLM.from_pretrained(
                name, config=config, device_map="meta", output_loading_info=True, trust_remote_code=trust,
                attn_implementation="eager",
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{flag} {name}: its weights do not fit its config.json: {reason}") from None
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{flag} {name}: its weights lack {len(missing)} of the model's tensors, such as {missing[0]}; "
            f"expected all of them, others would be random"
        )
    outline = model
    return outline


def choose_attention(asked: str, model: Any) -> str:
    """The kernel asked for, or the best one that the model has: eager is there for all.

    Args:
      asked: name of an attention implementation.
      model: a transformers model.
    """
    lacks_flash = "flash" in asked and not model._supports_flash_attn
    if not lacks_flash and not (asked == "sdpa" and not model._supports_sdpa):
        return asked
    return "sdpa" if lacks_flash and model._supports_sdpa else "eager"


def check_rows(
    source: str, account: Account, outline: Any, tokenizer: Any, max_len: int, notes: list[str]
) -> None:
    """Check that a model has a position and an embedding for every token.

    Args:
      source: flag and name of the data.
      account: of the data.
      outline: the model.
      tokenizer: pads the rows.
      max_len: most tokens of a row.
      notes: where what a user should know is added.

    Raises:
      UserError: a row longer than the learned positions, or a token id outside the vocabulary.
    """
    size = outline.get_input_embeddings().num_embeddings
    largest = max(account.largest_id, tokenizer.pad_token_id or 0, tokenizer.eos_token_id)
    if largest >= size:
        inside = largest == account.largest_id
        place = f"row {account.largest_row} of {source}" if inside else "its padding or end token"
        raise UserError(
            f"the tokenizer is larger than the model's embedding: got token id {largest} ({place}), expected "
            f"ids below {size}; resize the model's embedding, or use the tokenizer that came with the model"
        )
    positions = getattr(outline.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions >= max_len:
        return
    words = f"{source}: the longest row has {account.longest} tokens, the model {positions} positions"
    if account.longest <= positions:
        notes.append(f"{words}: it fits, --data.max_len {max_len} would not")
    elif _has_learned_positions(outline):
        raise UserError(f"{words}; expected no more, lower --data.max_len to {positions}")
    else:
        notes.append(
            f"warning: {words}: beyond them it was not trained; --data.max_len {positions} would fit"
        )


def _has_learned_positions(model: nn.Module) -> bool:
    return any(
        isinstance(module, nn.Embedding) and _LEARNED_POSITIONS.search(name)
        for name, module in model.named_modules()
    )


def _weight_files(folder: Path, flag: str) -> list[Path]:
    """The files that hold a model's weights, as transformers chooses them."""
    for pattern, names in (
        ("*.safetensors", ("model.safetensors", "model.safetensors.index.json")),
        ("*.bin", ("pytorch_model.bin", "pytorch_model.bin.index.json")),
    ):
        if any((folder / name).is_file() for name in names):
            return sorted(
                path for path in folder.glob(pattern) if path.stem.startswith(names[0].split(".")[0])
            )
    raise UserError(
        f"{flag} {folder}: got a folder without weights, expected model.safetensors, its parts with "
        f"model.safetensors.index.json, or pytorch_model.bin"
    )


def _check_whole(path: Path, flag: str) -> None:
    try:
        if path.suffix == ".bin":
            whole = zipfile.is_zipfile(path)  # its directory is at the end
        else:
            with safe_open(path, framework="pt"):
                whole = True
    except (SafetensorError, OSError):
        whole = False
    if not whole:
        raise UserError(
            f"{flag} {path.parent}: {path.name} is cut or damaged ({path.stat().st_size} bytes); "
            f"copy it again"
        )


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """Without bars and reports: what is wrong is said in one line."""
    own = transformers.logging
    level, bars = own.get_verbosity(), own.is_progress_bar_enabled()
    own.set_verbosity(own.CRITICAL)
    own.disable_progress_bar()
    try:
        yield
    finally:
        own.set_verbosity(level)
        if bars:
            own.enable_progress_bar()
