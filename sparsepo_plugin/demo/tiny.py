"""Tiny causal language models and a whole-word tokenizer, built from a config: nothing is downloaded."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
MAX_POSITIONS = 256

# What a family needs besides the common sizes. Strings name a size computed in build_model.
# Dropout is off everywhere: policy and reference log-probabilities must agree before the first step.
_ROTARY = {"num_key_value_heads": "heads", "head_dim": "head_dim"}
FAMILIES: dict[str, dict[str, str | float]] = {
    "llama": {**_ROTARY},
    "qwen2": {"num_key_value_heads": "heads"},
    "qwen3": {**_ROTARY},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt_neox": {},
    # Gemma 2 scales attention by query_pre_attn_scalar, whose default is the head size of the 2B model.
    "gemma2": {**_ROTARY, "query_pre_attn_scalar": "head_dim"},
    # A mixture of experts.
    "qwen3_moe": {**_ROTARY, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
# GPT-2 has its own names for the common sizes.
_RENAMED = {
    "gpt2": {
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    }
}


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Build a tokenizer with one token per word; ids are pad, eos, unk, then the words in their order.

    Raises:
      ValueError: a word repeats, is empty, holds white space, or is a special token.
    """
    specials = (PAD, EOS, UNK)
    seen: set[str] = set(specials)
    for word in words:
        if word in seen or word.split() != [word]:
            raise ValueError(
                f"build_tokenizer: got the word {word!r}; expected words without white space, each once, "
                f"none of {specials}. Remove it from the words."
            )
        seen.add(word)
    ids = {word: index for index, word in enumerate((*specials, *words))}
    backend = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,  # keeps " ." apart, so decoded text encodes to the same ids
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 4,
    seed: int = 0,
    model_type: str = "llama",
) -> PreTrainedModel:
    """Build a randomly initialised float32 model for the tokenizer; the caller's random state is kept.

    Args:
      tokenizer: gives the vocabulary size and the special ids.
      hidden_size: width of the hidden states; the feed-forward layer is twice as wide.
      layers: number of transformer blocks.
      heads: attention heads; must divide hidden_size into heads of even size (rotary embeddings).
      seed: fixes the weights.
      model_type: a key of FAMILIES.

    Raises:
      ValueError: the family is not in the table, or the heads do not fit the width.
    """
    if model_type not in FAMILIES:
        raise ValueError(
            f"build_model: got model_type {model_type!r}; expected one of {sorted(FAMILIES)}. Choose one, or "
            "add a row to FAMILIES."
        )
    if heads < 1 or hidden_size < 1 or hidden_size % (2 * heads):
        raise ValueError(
            f"build_model: got hidden_size {hidden_size} and {heads} heads; expected at least one head and a "
            "multiple of 2 * heads. Change either."
        )
    sizes: dict[str, Any] = {"heads": heads, "head_dim": hidden_size // heads}
    extras = {k: sizes[v] if isinstance(v, str) else v for k, v in FAMILIES[model_type].items()}
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(tokenizer),
        **_common_sizes(model_type, hidden_size, layers, heads),
        bos_token_id=None,  # the defaults lie outside a tiny vocabulary
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **extras,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


def _common_sizes(model_type: str, hidden_size: int, layers: int, heads: int) -> dict[str, int]:
    sizes = {
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": MAX_POSITIONS,
    }
    names = _RENAMED.get(model_type, {})
    return {names.get(name, name): size for name, size in sizes.items()}


def save_tiny(
    folder: str | os.PathLike[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Save model and tokenizer as a plain Hugging Face folder that the Auto classes load.

    Warns:
      UserWarning: AutoTokenizer misreads the tokenizer. For some families, ``qwen2`` among them,
        transformers 5 ignores the saved tokenizer class and rebuilds the family's own, which loses the words.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    text = " ".join(tokenizer.get_vocab())
    if AutoTokenizer.from_pretrained(folder)(text)["input_ids"] != tokenizer(text)["input_ids"]:
        warnings.warn(
            f"save_tiny: AutoTokenizer reads other tokens from {folder} than were saved, because the model "
            f"is of type {model.config.model_type!r}; load them with PreTrainedTokenizerFast.from_pretrained "
            "or build another model_type.",
            stacklevel=2,
        )
