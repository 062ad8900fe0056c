"""Tokens of a row, and which characters of the row's own responses they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sparsepo_plugin.adapters.pairs.texts import RowOptions, write_texts
from sparsepo_plugin.adapters.pairs.tokens import Endings
from sparsepo_plugin.adapters.pairs.turns import UnusableRowError, read_turns
from sparsepo_plugin.adapters.pairs.weights import COLUMNS
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.weigh.pairs_file import Row


class Placed(NamedTuple):
    """One response of a row with its prompt.

    Attributes:
      ids: token ids.
      start: index of the first token of the response.
      characters: of every response token the characters [start, end) of the row's response that it stands
        for; None where it stands for none, as an end token.
    """

    ids: list[int]
    start: int
    characters: list[tuple[int, int] | None]


class Placing:
    """Makes rows into tokens.

    Args:
      tokenizer: a fast one.
      options: how rows become tokens.

    Raises:
      UserError: the tokenizer does not say which characters its tokens stand for.
    """

    def __init__(self, tokenizer: Any, options: RowOptions) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                f"--model: its tokenizer ({type(tokenizer).__name__}) does not say which characters its "
                f"tokens stand for; expected a fast one"
            )
        self._tokenizer, self._options = tokenizer, options
        self._endings = Endings(tokenizer, options)

    def place(self, row: Row, where: str) -> tuple[Placed, Placed]:
        """Both responses of a row.

        Raises:
          UserError: the row cannot be used.
        """
        try:
            if self._options.prompt_key and self._options.prompt_key not in row:
                raise UnusableRowError(f"no column {self._options.prompt_key!r}, got {', '.join(row)}")
            # A span per character: where each stands in the rendered text is then known.
            lengths = response_lengths(row, self._options)
            marks = {
                column: [[n, n + 1, n] for n in range(length)]
                for column, length in zip(COLUMNS.values(), lengths)
            }
            texts = write_texts({**row, **marks}, self._options, self._tokenizer)
        except UnusableRowError as error:
            raise UserError(f"{where}, {error}") from None
        prompt = self._tokenise(texts.prompt)[0]
        sides = [
            self._side(whole, {span.start: int(span.number) for span in spans}, prompt)
            for whole, spans in zip((texts.chosen, texts.rejected), texts.spans)
        ]
        return sides[0], sides[1]

    def _side(self, whole: str, origin: dict[int, int], prompt: Sequence[int]) -> Placed:
        text = self._endings.text(whole)
        ids, offsets = self._tokenise(text)
        side = self._endings.side(whole, ids, prompt)
        characters: list[tuple[int, int] | None] = []
        for start, end in offsets[side.start : len(side.ids)]:
            told = [origin[n] for n in range(start, end) if n in origin and not text[n].isspace()]
            characters.append((told[0], told[-1] + 1) if told else None)
        characters += [None] * (len(side.ids) - side.start - len(characters))
        return Placed(side.ids, side.start, characters)

    def _tokenise(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return found["input_ids"], found["offset_mapping"]


def response_lengths(row: Row, options: RowOptions) -> list[int]:
    """Characters of both responses as the row holds them.

    Raises:
      UnusableRowError: a column is missing or holds neither text nor turns.
    """
    return [len(text) for text in response_texts(row, options)]


def response_texts(row: Row, options: RowOptions) -> list[str]:
    """Both responses as the row holds them: the text, or the content of the last turn.

    Raises:
      UnusableRowError: as response_lengths.
    """
    texts = []
    for key in (options.chosen_key, options.rejected_key):
        if key not in row:
            raise UnusableRowError(f"no column {key!r}, got {', '.join(row)}")
        turns = read_turns(row[key], key, "assistant")
        texts.append(str(turns[-1]["content"]) if turns else "")
    return texts


def spans(numbers: Sequence[float], characters: Sequence[tuple[int, int] | None]) -> list[list[float]]:
    """[start, end, number] in characters; tokens that share a character share a span, with their mean.

    Args:
      numbers: of every response token.
      characters: the same of Placed.
    """
    groups: list[tuple[int, int, list[float]]] = []
    for number, place in zip(numbers, characters):
        if place is None:
            continue
        if groups and place[0] < groups[-1][1]:
            start, end, shared = groups.pop()
            groups.append((start, max(end, place[1]), [*shared, number]))
        else:
            groups.append((*place, [number]))
    return [[start, end, round(sum(shared) / len(shared), 6)] for start, end, shared in groups]
