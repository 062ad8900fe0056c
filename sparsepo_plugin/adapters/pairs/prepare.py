"""A data set's rows as token sequences, kept in the datasets cache so that a run makes them once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_plugin.adapters.pairs.account import Account, count
from sparsepo_plugin.adapters.pairs.texts import RowOptions, Texts, write_texts
from sparsepo_plugin.adapters.pairs.tokens import Endings, Side, Tokens, response_numbers
from sparsepo_plugin.adapters.pairs.turns import UnusableRowError
from sparsepo_plugin.adapters.pairs.weights import COLUMNS
from sparsepo_plugin.errors import UserError

# Change it with whatever changes a row's tokens: prepared rows outlive the process.
_VERSION = 2
_NUMBERS = ("row", "chosen_start", "rejected_start", "prompt_tokens")
_MARKS = ("chosen_cut", "rejected_cut", "empty", "repeated", "spoken")


class PreparedPairs(NamedTuple):
    """The rows of a data set that can be trained on.

    Attributes:
      pairs: one row per pair: ``row`` (its number in the data), ``chosen`` and ``rejected`` (token ids),
        ``chosen_start`` and ``rejected_start`` (index of the first response token); of data with weights
        also ``chosen_weights`` and ``rejected_weights`` (a number per response token, nan for none).
      account: what became of every row.
    """

    pairs: Any
    account: Account


def prepare(dataset: Any, tokenizer: Any, options: RowOptions) -> PreparedPairs:
    """Tokenise a data set.

    Args:
      dataset: a ``datasets.Dataset``.
      tokenizer: its chat template is the one that is used.
      options: how rows become tokens.

    Raises:
      UserError: the chat template is no valid Jinja, or the cache cannot be written.
    """
    import datasets
    import pyarrow

    weighted = any(column in dataset.column_names for column in COLUMNS.values())
    if weighted and not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{type(tokenizer).__name__}: it does not say which characters its tokens stand for, which the "
            f"columns {' and '.join(COLUMNS.values())} need; use a fast tokenizer, or drop the columns"
        )
    # Upstream starts 8 processes even for a few hundred rows.
    workers = max(1, min(8, os.cpu_count() or 1, len(dataset) // 1000))
    key = _key(dataset, tokenizer, options)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "sparsepo"

    def make(*, kept: bool) -> Any:
        return dataset.map(
            Preparation(tokenizer, options, weighted=weighted),
            batched=True,
            with_indices=True,
            remove_columns=dataset.column_names,
            num_proc=workers if workers > 1 else None,
            features=_features(datasets, weighted),
            cache_file_name=str(folder / f"{key}.arrow"),
            new_fingerprint=key,
            load_from_cache_file=kept,
            desc="Preparing pairs",
        )

    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            rows = make(kept=True)
        except (OSError, pyarrow.ArrowInvalid):  # a damaged file in the cache
            rows = make(kept=False)
    except OSError as error:
        raise UserError(
            f"{folder}: prepared rows cannot be kept there ({error.strerror or error}); make room, or set "
            f"HF_DATASETS_CACHE to another folder"
        ) from None
    account = count(rows, options)
    kept = [number for number, kind in enumerate(rows["kind"]) if not kind]
    names = ["row", "chosen", "rejected", "chosen_start", "rejected_start"]
    names += COLUMNS.values() if weighted else []
    pairs = rows.select_columns(names)
    return PreparedPairs(pairs if len(kept) == len(rows) else pairs.select(kept), account)


def check_weights(source: str, pairs: Any, chosen: str) -> None:
    """Refuse data without weights where the loss reads them.

    Args:
      source: what names the data, for the message.
      pairs: of PreparedPairs.
      chosen: what names the loss.

    Raises:
      UserError: the data have no such column, or no token has a number.
    """
    wanted = " and ".join(COLUMNS.values())
    if COLUMNS["chosen"] not in pairs.column_names:
        raise UserError(
            f"{source}: got no columns {wanted}, expected them with {chosen}; `sparsepo weigh` writes them: "
            f"lists of [start, end, number] in characters of the response"
        )
    numbers = pairs.select_columns(list(COLUMNS.values()))
    if all(math.isnan(number) for row in numbers for column in row.values() for number in column):
        raise UserError(
            f"{source}: got {wanted} without a number for any token, expected some with {chosen}; check that "
            f"the spans lie in the responses as the data hold them"
        )


def _key(dataset: Any, tokenizer: Any, options: RowOptions) -> str:
    """A name for everything that the prepared rows depend on."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str()
    parts = [
        str(_VERSION), dataset._fingerprint, type(tokenizer).__name__, vocabulary,
        json.dumps(tokenizer.chat_template), json.dumps(tokenizer.special_tokens_map, default=str),
        json.dumps(dataclasses.asdict(options), sort_keys=True),
    ]  # fmt: skip
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _features(datasets: Any, weighted: bool) -> Any:
    ids, numbers = datasets.Sequence(datasets.Value("int32")), datasets.Sequence(datasets.Value("float32"))
    return datasets.Features(
        {
            **{name: datasets.Value("int64") for name in _NUMBERS},
            **{name: datasets.Value("bool") for name in _MARKS},
            **{name: datasets.Value("string") for name in ("kind", "reason")},
            "chosen": ids,
            "rejected": ids,
            **(dict.fromkeys(COLUMNS.values(), numbers) if weighted else {}),
        }
    )


class Preparation:
    """Makes a batch of rows into token sequences; what ``dataset.map`` calls.

    Args:
      tokenizer: as for ``prepare``.
      options: as for ``prepare``.
      weighted: the data have columns of weights.
    """

    def __init__(self, tokenizer: Any, options: RowOptions, *, weighted: bool = False) -> None:
        self.tokenizer, self.options, self.weighted = tokenizer, options, weighted
        self.endings = Endings(tokenizer, options)

    def __call__(self, batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        """Columns as ``_features`` names them; ``kind`` says why a row is dropped, and is empty otherwise."""
        outcomes = [self._texts({key: batch[key][n] for key in batch}) for n in range(len(numbers))]
        texts = [text for text in outcomes if isinstance(text, Texts)]
        wholes = [
            [self.endings.text(getattr(text, name)) for text in texts] for name in ("chosen", "rejected")
        ]
        tokens = zip(texts, *(self._tokenise(part) for part in ([text.prompt for text in texts], *wholes)))
        rows = [
            self._row(number, *next(tokens))
            if isinstance(text, Texts)
            else self._without_weights(_dropped(number, "unusable", text))
            for number, text in zip(numbers, outcomes)
        ]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _texts(self, row: dict[str, Any]) -> Texts | str:
        try:
            return write_texts(row, self.options, self.tokenizer)
        except UnusableRowError as error:
            return str(error)

    def _tokenise(self, texts: list[str]) -> list[Tokens]:
        if not texts:
            return []
        # Templates write special tokens themselves.
        add = self.options.special_tokens and not self.options.chat_template
        asked = {"return_offsets_mapping": True} if self.weighted else {}
        encoded = self.tokenizer(
            texts, add_special_tokens=add, return_attention_mask=False, verbose=False, **asked
        )
        begin, places = self.tokenizer.bos_token_id, encoded.get("offset_mapping", [[] for _ in texts])
        # Text that a template has written before, as Axolotl's, begins with the token that is added again.
        return [
            Tokens(ids[1:], offsets[1:])
            if add and begin is not None and ids[:2] == [begin, begin]
            else Tokens(ids, offsets)
            for ids, offsets in zip(encoded["input_ids"], places)
        ]

    def _row(
        self, number: int, texts: Texts, prompt: Tokens, chosen: Tokens, rejected: Tokens
    ) -> dict[str, Any]:
        wholes = (texts.chosen, chosen), (texts.rejected, rejected)
        sides = tuple(self.endings.side(whole, tokens.ids, prompt.ids) for whole, tokens in wholes)
        marks = {
            "prompt_tokens": len(prompt.ids), "empty": texts.empty, "repeated": texts.repeated,
            "spoken": texts.spoken, "chosen_cut": sides[0].cut, "rejected_cut": sides[1].cut,
        }  # fmt: skip
        if kind := self._verdict(texts, sides, len(prompt.ids)):
            reason = "the chat template leaves nothing of a response" if kind == "unusable" else ""
            return self._without_weights(_dropped(number, kind, reason) | marks)
        return {
            **_dropped(number, ""), **marks,
            **{"chosen": sides[0].ids, "rejected": sides[1].ids},
            **{"chosen_start": sides[0].start, "rejected_start": sides[1].start},
            **self._weights(texts, (chosen, rejected), sides),
        }  # fmt: skip

    def _weights(
        self, texts: Texts, tokens: tuple[Tokens, Tokens], sides: tuple[Side, ...]
    ) -> dict[str, list[float]]:
        """A number per response token by column; nothing where the data have no such columns."""
        if not self.weighted:
            return {}
        wholes = (texts.chosen, texts.rejected)
        return {
            column: response_numbers(self.endings.text(whole), spans, part, side)
            for column, whole, spans, part, side in zip(COLUMNS.values(), wholes, texts.spans, tokens, sides)
        }

    def _without_weights(self, row: dict[str, Any]) -> dict[str, Any]:
        return row | {column: [] for column in COLUMNS.values()} if self.weighted else row

    def _verdict(self, texts: Texts, sides: tuple[Side, ...], prompt_tokens: int) -> str:
        # Upstream's limit: two tokens of a response at least.
        if prompt_tokens >= self.options.max_len - 2:
            return "no room"
        if any(side.start == len(side.ids) for side in sides):
            return "unusable"
        if texts.chosen == texts.rejected:
            return "equal"
        return "equal when cut" if sides[0].ids == sides[1].ids else ""


def _dropped(number: int, kind: str, reason: str = "") -> dict[str, Any]:
    plain = dict.fromkeys(_NUMBERS, 0)
    marks = dict.fromkeys(_MARKS, False)
    return {**plain, **marks, "row": number, "kind": kind, "reason": reason, "chosen": [], "rejected": []}
