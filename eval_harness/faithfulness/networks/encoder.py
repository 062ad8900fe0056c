"""Token embeddings of one layer of an encoder, for texts of any length."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Device
from eval_harness.faithfulness.networks.loading import by_length, load, progress, read_config
from eval_harness.models.finite import check_finite

Floats = NDArray[np.float64]
# Layers that agree best with human judgements of translation, by hub name.
# Source: the table of bert-score 0.3.13; WMT16 to-English, Zhang et al. 2020, arXiv 1904.09675, appendix.
_BY_NAME = {
    "bert-base-multilingual-cased": 9,
    "distilbert-base-uncased": 5,
    "roberta-large-mnli": 19,
    "facebook/bart-large": 10,
    "facebook/bart-large-mnli": 11,
    "microsoft/deberta-base-mnli": 9,
    "microsoft/deberta-large-mnli": 18,
    "microsoft/deberta-xlarge-mnli": 40,
}
# The same for the plain models, by architecture, depth and width: a folder does not say its hub name.
_BY_SHAPE = {
    ("bert", 12, 768): 9,
    ("bert", 24, 1024): 18,
    ("roberta", 12, 768): 10,
    ("roberta", 24, 1024): 17,
}


class Embedded(NamedTuple):
    """Unit vectors of a text's tokens, [tokens, width], and their weights: 0 for CLS and SEP, else 1."""

    vectors: Floats
    weights: Floats


def choose_layer(name: str, folder: Path, layer: int, scorer: str) -> int:
    """The layer asked for, or the one that the table has for the model.

    Raises:
      UserError: out of range, or none given for a model that the table lacks.
    """
    config = read_config(folder, scorer)
    depth = int(config.num_hidden_layers)
    plain = name.removeprefix("FacebookAI/").removeprefix("google-bert/").removeprefix("distilbert/")
    chosen = layer or _BY_NAME.get(plain) or _BY_SHAPE.get((config.model_type, depth, config.hidden_size), 0)
    if not 1 <= chosen <= depth:
        raise UserError(
            f"scorer {scorer}: which layer of the encoder",
            got=layer or f"none given, and none known for {name}",
            expected=f"1 to {depth}",
            remedy=f"--scorer-option layer=N; tuned ones are about {max(1, round(0.72 * depth))} of {depth}",
        )
    return chosen


class Encoder:
    """An encoder cut behind one layer."""

    def __init__(self, folder: Path, layer: int, scorer: str, run_on: Device) -> None:
        """Load and cut the model. Raises UserError: not an encoder."""
        kind = read_config(folder, scorer).model_type
        # These tell a word at the start of a text from the same word inside, unless it gets a space.
        spaced = {"add_prefix_space": True} if kind in ("roberta", "gpt2") else {}
        loaded = load(folder, "T5EncoderModel" if "t5" in kind else "AutoModel", scorer, run_on, **spaced)
        self._tokenizer, self._longest = loaded.tokenizer, loaded.longest
        if not self._tokenizer.is_fast:
            raise UserError(
                f"scorer {scorer}: long texts are cut by the tokenizer's own windows",
                got=f"{type(self._tokenizer).__name__} without them",
                expected="a tokenizer.json",
                remedy="save the tokenizer again with a current transformers",
            )
        whole = loaded.model
        self._model = _cut(whole.get_encoder() if whole.config.is_encoder_decoder else whole, layer, scorer)
        self._batch_tokens = run_on.batch_tokens
        self._scorer = scorer

    def embed(self, texts: Sequence[str]) -> dict[str, Embedded]:
        """Embed every distinct text; one longer than the model's input in windows, none of it lost."""
        distinct = list(dict.fromkeys(texts))
        windows = [self._windows(text.strip()) for text in distinct]
        rows = [row for of_text in windows for row in of_text]
        vectors: list[Floats] = [np.zeros((0, 0))] * len(rows)
        with progress(f"{self._scorer}: texts", len(rows)) as bar:
            for batch in by_length([len(row) for row in rows], self._batch_tokens):
                for row, hidden in zip(batch, self._forward([rows[i] for i in batch]), strict=True):
                    vectors[row] = hidden
                bar.update(len(batch))
        embedded, start = {}, 0
        for text, of_text in zip(distinct, windows, strict=True):
            end = start + len(of_text)
            embedded[text] = self._join(of_text, vectors[start:end])
            start = end
        return embedded

    def _windows(self, text: str) -> list[list[int]]:
        rows = self._tokenizer(
            text, truncation=True, max_length=self._longest, return_overflowing_tokens=True
        ).input_ids
        return [[int(i) for i in row] for row in rows]

    def _join(self, rows: list[list[int]], vectors: list[Floats]) -> Embedded:
        unweighted = {self._tokenizer.cls_token_id, self._tokenizer.sep_token_id}
        weights = np.array([float(i not in unweighted) for row in rows for i in row])
        together = np.concatenate(vectors)
        return Embedded(together / np.linalg.norm(together, axis=-1, keepdims=True), weights)

    def _forward(self, rows: list[list[int]]) -> list[Floats]:
        import torch

        width = max(map(len, rows))
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self._model.device)
        mask = torch.tensor(
            [[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self._model.device
        )
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, attention_mask=mask)[0].double().cpu().numpy()
        check_finite(hidden[mask.cpu().numpy() == 1], "the encoder's vectors")
        return [hidden[i, : len(row)] for i, row in enumerate(rows)]


def _cut(model: Any, layer: int, scorer: str) -> Any:
    """Drop the layers behind `layer`, so that the model's output is that layer's."""
    import torch

    depth = int(model.config.num_hidden_layers)
    if model.config.model_type == "albert":  # one layer, run many times
        model.encoder.config.num_hidden_layers = layer
        return model
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth
    ]
    if not stacks:
        raise UserError(
            f"scorer {scorer}: no stack of layers found",
            got=model.config.model_type,
            expected="an encoder such as BERT, RoBERTa, DeBERTa, ALBERT, BART or T5",
        )
    name, stack = stacks[0]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, child, stack[:layer])
    return model


@functools.lru_cache(maxsize=1)
def encoder(folder: Path, layer: int, scorer: str, run_on: Device) -> Encoder:
    """The encoder, loaded once."""
    return Encoder(folder, layer, scorer, run_on)
