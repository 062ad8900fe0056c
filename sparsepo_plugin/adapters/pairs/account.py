"""What became of the rows of a data set: numbers, words, and when they are too bad to train on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sparsepo_plugin.adapters.pairs.texts import RowOptions
from sparsepo_plugin.errors import UserError

# A few bad rows of many are dropped and named; more are a mistake in the data or in a flag.
UNUSABLE_SHARE = 0.01
# Above this share of cut pairs the end of responses, and with it when to stop, is hardly trained.
CUT_SHARE = 0.1
_NAMED = 3


class Account(NamedTuple):
    """What became of every row.

    Attributes:
      max_len: most tokens of a row.
      limit_name: what users call it.
      read: rows of the data.
      kept: pairs to train on.
      unusable: number and reason of every row that holds no pair or that the template refuses.
      no_room: rows whose prompt leaves no room for a response.
      equal: rows whose responses are the same.
      equal_when_cut: rows whose responses are the same as far as they fit.
      cut: kept pairs with a response whose end did not fit.
      empty: kept pairs with an empty response.
      repeated: kept pairs whose responses repeated the prompt, which was taken out of them.
      spoken: kept pairs whose plain texts were made turns of a conversation.
      shortest_prompt: tokens of the shortest prompt of all usable rows.
      longest: tokens of the longest kept row.
      tokens: of all kept rows, both sides.
      response_tokens: those of them that belong to responses.
      largest_id: the largest token id of a kept row.
      largest_row: number of that row in the data.
    """

    max_len: int
    limit_name: str
    read: int
    kept: int
    unusable: list[tuple[int, str]]
    no_room: int
    equal: int
    equal_when_cut: int
    cut: int
    empty: int
    repeated: int
    spoken: int
    shortest_prompt: int
    longest: int
    tokens: int
    response_tokens: int
    largest_id: int
    largest_row: int

    def check(self, source: str, least: int = 1) -> None:
        """Refuse data that cannot be trained on as they are.

        Args:
          source: what names the data, for the message.
          least: pairs that are needed.

        Raises:
          UserError: too many unusable rows, none with room for a response, or fewer pairs than ``least``.
        """
        if not self.read:
            raise UserError(f"{source}: got no pairs, expected at least {least}")
        if len(self.unusable) > UNUSABLE_SHARE * self.read:
            rest = f" ({len(self.unusable)} of {self.read} rows cannot be used)" if self.unusable[1:] else ""
            raise UserError(f"{source}: {_named(self.unusable[:1])}{rest}")
        if self.no_room == self.read - len(self.unusable):
            raise UserError(
                f"{source}: every response is truncated away: the shortest prompt has {self.shortest_prompt} "
                f"tokens, {self.limit_name} {self.max_len} leaves room for prompts below {self.max_len - 2}; "
                "raise it"
            )
        if self.kept < least:
            raise UserError(
                f"{source}: got {self.kept} usable pairs{self._dropped()}, expected at least one batch of "
                f"{least}; add data or lower --train.batch_size"
            )

    def lines(self, source: str) -> list[str]:
        """What a user should know of the data, a sentence a line; the first one has the numbers.

        Args:
          source: what names the data.
        """
        head = f"{source}: {self.read} pairs read, {self.kept} kept{self._dropped()}"
        said = [head]
        if self.cut:
            warning = "warning: " if self.cut > CUT_SHARE * self.kept else ""
            said.append(
                f"{warning}{self.cut} of {self.kept} pairs are cut at {self.max_len} tokens: the end of a "
                f"response is not trained; {self.limit_name} sets the length"
            )
        for number, words in (
            (self.empty, "have an empty response"),
            (self.repeated, "repeat the prompt at the start of both responses: taken out of them"),
            (self.spoken, "hold plain text, made one user turn and one assistant turn for the chat template"),
        ):
            if number:
                said.append(f"{number} of {self.kept} pairs {words}")
        if self.unusable:
            said.append(f"warning: {_named(self.unusable)}: dropped")
        return said

    def _dropped(self) -> str:
        kinds = {
            "unusable": len(self.unusable),
            f"without room for a response in max_len {self.max_len}": self.no_room,
            "with equal responses": self.equal,
            "with responses equal after cutting": self.equal_when_cut,
        }
        words = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
        return f", {self.read - self.kept} dropped ({words})" if words else ""


def count(rows: Any, options: RowOptions) -> Account:
    """Count what ``prepare`` made.

    Args:
      rows: every row of the data, with the columns that ``prepare`` gives them.
      options: how they became tokens.
    """
    names = [name for name in rows.column_names if name not in ("chosen", "rejected", "reason")]
    columns = rows.select_columns(names)[:]
    kinds: Sequence[str] = columns["kind"]
    kept = [n for n, kind in enumerate(kinds) if not kind]
    unusable = [n for n, kind in enumerate(kinds) if kind == "unusable"]
    usable = [columns["prompt_tokens"][n] for n, kind in enumerate(kinds) if kind != "unusable"]
    sizes = _Sizes.of(rows, kept)
    return Account(
        max_len=options.max_len,
        limit_name=options.limit_name,
        read=len(kinds),
        kept=len(kept),
        unusable=[(columns["row"][n], rows[n]["reason"]) for n in unusable],
        no_room=kinds.count("no room"),
        equal=kinds.count("equal"),
        equal_when_cut=kinds.count("equal when cut"),
        cut=sum(bool(columns["chosen_cut"][n] or columns["rejected_cut"][n]) for n in kept),
        **{name: sum(columns[name][n] for n in kept) for name in ("empty", "repeated", "spoken")},
        shortest_prompt=min(usable, default=0),
        longest=sizes.longest,
        tokens=sizes.tokens,
        response_tokens=sizes.tokens - sum(columns["chosen_start"]) - sum(columns["rejected_start"]),
        largest_id=sizes.largest_id,
        largest_row=sizes.largest_row,
    )


class _Sizes(NamedTuple):
    longest: int
    tokens: int
    largest_id: int
    largest_row: int

    @classmethod
    def of(cls, rows: Any, kept: Sequence[int]) -> _Sizes:
        """Sizes of the kept rows, read a block at a time."""
        longest, tokens, largest, row = 0, 0, -1, -1
        for first in range(0, len(kept), 1000):
            block = rows[kept[first : first + 1000]]
            for number, *sides in zip(block["row"], block["chosen"], block["rejected"]):
                longest = max(longest, *map(len, sides))
                tokens += sum(map(len, sides))
                if (length := max(map(max, sides))) > largest:
                    largest, row = length, number
        return cls(longest, tokens, largest, row)


def _named(unusable: Sequence[tuple[int, str]]) -> str:
    """The first rows with their reasons, and how many more there are."""
    words = "; ".join(f"row {number}, {reason}" for number, reason in unusable[:_NAMED])
    more = len(unusable) - _NAMED
    return words if more <= 0 else f"{words}; and {more} more"
