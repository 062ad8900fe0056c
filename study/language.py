"""A small causal language model with its own tokenizer, trained from scratch on given texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from sparsepo_plugin.demo.supervised import supervised_start
from sparsepo_plugin.files import write_text

PAD, EOS = "<pad>", "<eos>"


class Size(NamedTuple):
    """Size of a model and of its training from scratch."""

    vocabulary: int
    hidden: int
    layers: int
    steps: int
    batch: int = 32
    window: int = 48
    rate: float = 3e-3
    positions: int = 512


class Language(NamedTuple):
    """A model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


def build_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the texts."""
    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=[PAD, EOS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend._tokenizer, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def build_model(tokenizer: PreTrainedTokenizerFast, size: Size, seed: int) -> PreTrainedModel:
    """A randomly initialised Llama with tied embeddings."""
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=max(1, size.hidden // 32),
        num_key_value_heads=max(1, size.hidden // 32),
        max_position_embeddings=size.positions,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


def pieces(text: str, words: int) -> list[str]:
    """The text from every ``words``-th word on; training cuts each to its window of tokens."""
    starts, inside, count = [0], False, 0
    for place, letter in enumerate(text):
        if letter.isspace():
            inside = False
        elif not inside:
            inside, count = True, count + 1
            if count % words == 0 and len(text) - place > 40:
                starts.append(max(0, place - 1))
    # A token has hardly ever more than 12 letters; what lies behind the window is not tokenized in vain.
    return [text[start : start + 40 * words] for start in starts]


def train(folder: Path, texts: Sequence[str], size: Size, seed: int) -> Language:
    """Load the model of a folder, or train it there.

    Args:
      folder: where it is kept between calls.
      texts: whole texts for the tokenizer and the model, which sees overlapping pieces of them.
      size: sizes and number of steps.
      seed: fixes weights and order.
    """
    if (folder / "loss.txt").is_file():
        return load(folder)
    tokenizer = build_tokenizer(texts, size.vocabulary)
    model = build_model(tokenizer, size, seed)
    parts = [part for text in texts for part in pieces(text, size.window * 2 // 3)]
    losses = supervised_start(
        model, tokenizer, parts, steps=size.steps, batch_size=size.batch, learning_rate=size.rate, seed=seed,
        max_length=size.window, progress=False,
    )  # fmt: skip
    return _keep(folder, Language(model, tokenizer), losses)


def load(folder: Path) -> Language:
    """The model of a folder, frozen, for use as reference."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval().requires_grad_(False)
    return Language(model, tokenizer)


def copy_of(language: Language) -> PreTrainedModel:
    """A trainable copy of the model."""
    model: PreTrainedModel = AutoModelForCausalLM.from_config(language.model.config, dtype=torch.float32)
    model.load_state_dict(language.model.state_dict())
    return model.requires_grad_(True)


def tune(folder: Path, start: Language, rows: Sequence[Sequence[int]], size: Size, seed: int) -> Language:
    """Load the model of a folder, or go on from another one there, on whole rows of token ids."""
    if (folder / "loss.txt").is_file():
        return load(folder)
    model, tokenizer = copy_of(start), start.tokenizer
    texts: list[str] = tokenizer.batch_decode([list(row) for row in rows], skip_special_tokens=True)
    losses = supervised_start(
        model, tokenizer, texts, steps=size.steps, batch_size=size.batch, learning_rate=size.rate, seed=seed,
        max_length=size.window, progress=False,
    )  # fmt: skip
    return _keep(folder, Language(model, tokenizer), losses)


def _keep(folder: Path, made: Language, losses: Sequence[float]) -> Language:
    """Write a model; the loss, written last, says that it is complete."""
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    tail = losses[-100:]
    write_text(folder / "loss.txt", f"{math.fsum(tail) / len(tail):.4f}\n")
    return load(folder)
