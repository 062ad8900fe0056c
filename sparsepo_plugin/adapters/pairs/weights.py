"""Weights of a response by spans of its characters, and what a token gets of them.

A row's columns ``chosen_weights`` and ``rejected_weights`` are lists of [start, end, number]: characters
[start, end) of the response as the row holds it have that number. What it means is the loss's own affair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sparsepo_plugin.adapters.pairs.turns import UnusableRowError

COLUMNS = {"chosen": "chosen_weights", "rejected": "rejected_weights"}
_FORM = "expected a list of [start, end, number]"


class Span(NamedTuple):
    """A number on characters [start, end)."""

    start: int
    end: int
    number: float


def read_spans(value: Any, column: str, length: int) -> list[Span]:
    """Read a column's value.

    Args:
      value: a list of [start, end, number] in any order, or None.
      column: its name, for the message.
      length: characters of the response.

    Raises:
      UnusableRowError: another form, a span outside the response, two that overlap, or no finite number.
    """
    if value is None:
        return []
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        raise UnusableRowError(f"column {column!r}: got {type(value).__name__}, {_FORM}")
    spans = sorted(_read_span(entry, column, length) for entry in value)
    for before, after in pairwise(spans):
        if after.start < before.end:
            raise UnusableRowError(
                f"column {column!r}: got spans {_words(before)} and {_words(after)}, which overlap; expected "
                f"each character in one span at most"
            )
    return spans


def _read_span(entry: Any, column: str, length: int) -> Span:
    numbers = list(entry) if isinstance(entry, Sequence) and not isinstance(entry, str) else []
    real = [number for number in numbers if isinstance(number, (int, float)) and not isinstance(number, bool)]
    if len(numbers) != 3 or len(real) != 3 or not all(map(math.isfinite, real)):
        raise UnusableRowError(f"column {column!r}: got {str(entry)[:60]}, {_FORM}, finite")
    start, end, number = real
    if int(start) != start or int(end) != end or not 0 <= start < end <= length:
        raise UnusableRowError(
            f"column {column!r}: got span {start:g} to {end:g}, expected whole numbers with 0 <= start < end "
            f"<= {length}, the characters of the response"
        )
    return Span(int(start), int(end), float(number))


def _words(span: Span) -> str:
    return f"{span.start} to {span.end}"


def moved(spans: Sequence[Span], by: int, start: int, end: int) -> list[Span]:
    """The spans in a text where the response stands ``by`` characters further on.

    Args:
      spans: in characters of the response.
      by: may be negative.
      start: first character of the response in that text; what of a span lies before it is cut off.
      end: the character after its last one; what lies behind is cut off too.
    """
    cut = [Span(max(start, a + by), min(end, b + by), number) for a, b, number in spans]
    return [span for span in cut if span.start < span.end]


def token_numbers(text: str, spans: Sequence[Span], offsets: Sequence[tuple[int, int]]) -> list[float]:
    """What every token gets; nan for none.

    A token has the mean number of its characters that lie in spans, white space at its ends left out. If they
    are less than half of its characters, it has none.

    Args:
      text: what was tokenised.
      spans: in characters of it.
      offsets: first character of every token and the one after its last; equal where it stands for none.
    """
    by_character: list[float | None] = [None] * len(text)
    for span in spans:
        end = min(span.end, len(text))
        by_character[span.start : end] = [span.number] * (end - span.start)
    numbers = []
    for start, end in offsets:
        characters = by_character[slice(*_without_space(text, start, end))]
        inside = [number for number in characters if number is not None]
        enough = inside and 2 * len(inside) >= len(characters)
        numbers.append(math.fsum(inside) / len(inside) if enough else math.nan)
    return numbers


def _without_space(text: str, start: int, end: int) -> tuple[int, int]:
    """A token's characters without white space at its ends; all of them where there is nothing else."""
    words = text[start:end]
    if not words.strip():
        return start, end
    return start + len(words) - len(words.lstrip()), end - len(words) + len(words.rstrip())
