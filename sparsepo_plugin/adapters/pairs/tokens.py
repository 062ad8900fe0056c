"""Where a response begins in its row's tokens, and how a row ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from sparsepo_plugin.adapters.pairs.texts import RowOptions, common_length
from sparsepo_plugin.adapters.pairs.weights import Span, token_numbers


class Tokens(NamedTuple):
    """A tokenised text.

    Attributes:
      ids: token ids.
      offsets: characters [start, end) of every token; empty where nobody asked.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


class Side(NamedTuple):
    """One response with its prompt.

    Attributes:
      ids: token ids, at most ``max_len``.
      start: index of the first token of the response.
      cut: the end of the response did not fit.
    """

    ids: list[int]
    start: int
    cut: bool


class Endings:
    """How the rows of a tokenizer end.

    Args:
      tokenizer: one with an end token.
      options: how rows become tokens.
    """

    def __init__(self, tokenizer: Any, options: RowOptions) -> None:
        self._options, self._end, self._end_id = options, tokenizer.eos_token, tokenizer.eos_token_id
        added = tokenizer.added_tokens_decoder.values()
        marks = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
        self._marks = tuple(mark for mark in marks if mark)

    def text(self, whole: str) -> str:
        """The text of a row to tokenise; ``side`` does the rest."""
        if self._options.upstream_end_tokens:
            whole = whole.rstrip("\n")
            return whole if whole.endswith(self._end) else f"{whole} {self._end}"
        return whole.rstrip("\n") if self._options.chat_template and not self._is_ended(whole) else whole

    def side(self, whole: str, ids: Sequence[int], prompt: Sequence[int]) -> Side:
        """Cut a row to its length, end it, and find its response.

        Args:
          whole: the row's text.
          ids: its tokens.
          prompt: the tokens of the prompt alone.
        """
        length = self._options.max_len
        row = (
            list(ids) if self._is_ended(whole) or self._options.upstream_end_tokens else [*ids, self._end_id]
        )
        cut, row = len(row) > length, row[:length]
        if self._options.upstream_end_tokens:
            row[-1:] = [self._end_id]
        # Not the number of the prompt's tokens: its last one may be another where a response follows.
        return Side(row, common_length(row, prompt), cut)

    def _is_ended(self, whole: str) -> bool:
        """Whether the template, or the data, ends the row: conversations end in a special token.

        Plain text ends by the end token itself only.
        """
        if self._options.chat_template:
            return whole.rstrip().endswith(self._marks)
        return whole.endswith(self._end)


def response_numbers(text: str, spans: Sequence[Span], tokens: Tokens, side: Side) -> list[float]:
    """A number per token of a response; nan for none, as for an end token.

    Args:
      text: what was tokenised.
      spans: in characters of it.
      tokens: of the text.
      side: what became of them.
    """
    numbers = token_numbers(text, spans, tokens.offsets)
    kept = [
        number if ours == theirs else math.nan for number, ours, theirs in zip(numbers, side.ids, tokens.ids)
    ]
    kept += [math.nan] * (len(side.ids) - len(kept))
    return kept[side.start :]
