"""Rows that hold a preference pair once: the common prefix, the rest of chosen, the rest of rejected.

A row holds one pair and is padded, or all pairs stand in one row without padding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.adapters.prefix.spans import PairSizes, Spans
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX
from sparsepo_plugin.forward.window import ResponseWindow

PREFIX, CHOSEN, REJECTED, PADDING = 0, 1, 2, -1


class SharedRows(NamedTuple):
    """A batch of pairs, one row each, right-padded; or all in one row.

    Attributes:
      token_ids: [rows, seq]; 0 on padding.
      attention_mask: 1 on tokens, 0 on padding, [rows, seq].
      position_ids: position in the response's own row: it restarts where rejected begins; [rows, seq].
      segments: PREFIX, CHOSEN, REJECTED or PADDING, [rows, seq].
      window: the responses, where they stand in these rows; a prompt without tokens leaves the first response
        token unpredicted, as in whole rows.
      own_positions: place of every entry of the window in its response's own row, not counting padding.
      pairs: number of the pair that a token belongs to, [rows, seq].
      spans: the same for kernels that read sequences of any length, one after the other.
    """

    token_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    segments: Tensor
    window: ResponseWindow
    own_positions: Tensor
    pairs: Tensor
    spans: Spans

    def packed(self) -> SharedRows:
        """All pairs in one row, one after the other, without padding."""
        pairs, seq = self.token_ids.shape
        if pairs == 1:
            return self
        sizes, device = self.spans.sizes, self.token_ids.device
        index = torch.cat([row * seq + torch.arange(size.total) for row, size in enumerate(sizes)]).to(device)
        starts = torch.tensor([0, *(size.total for size in sizes)]).cumsum(0)[:-1].to(device)
        row = self.window.source // seq
        window = self.window._replace(source=self.window.source - row * seq + starts[row])
        values = (value.flatten()[index][None] for value in (*self[:4], self.pairs))
        token_ids, attention_mask, position_ids, segments, numbers = values
        spans = Spans.of(sizes, None, device)
        return SharedRows(
            token_ids, attention_mask, position_ids, segments, window, self.own_positions, numbers, spans
        )


def shared_rows(
    chosen_ids: Tensor,
    chosen_attention: Tensor,
    rejected_ids: Tensor,
    rejected_attention: Tensor,
    prompt_lengths: Tensor,
) -> SharedRows:
    """Lay a batch of pairs out so that the tokens both responses begin with are computed once.

    The common prefix is that of the two token sequences. It ends within the prompt where the rows tokenise it
    differently, and within the responses where these begin alike; any of the parts may be empty.

    Args:
      chosen_ids: [pairs, seq], padded on either side.
      chosen_attention: 0 on padding, [pairs, seq].
      rejected_ids: [pairs, seq'].
      rejected_attention: 0 on padding, [pairs, seq'].
      prompt_lengths: number of tokens, from the first one of a row, that are not response; [pairs] where both
        rows of a pair have the same, [2 * pairs] with the chosen rows first.

    Raises:
      ValueError: shapes do not fit each other, or a row has no token.
    """
    _check(chosen_ids, chosen_attention, rejected_ids, rejected_attention, prompt_lengths)
    width = max(chosen_ids.shape[1], rejected_ids.shape[1])
    chosen, chosen_lengths = _to_the_left(chosen_ids, chosen_attention, width)
    rejected, rejected_lengths = _to_the_left(rejected_ids, rejected_attention, width)
    if not bool((torch.minimum(chosen_lengths, rejected_lengths) > 0).all()):
        raise ValueError("shared_rows: got a row without tokens; expected at least one token in every row")
    column = torch.arange(width, device=chosen.device)
    both = column < torch.minimum(chosen_lengths, rejected_lengths)[:, None]
    common = ((chosen == rejected) & both).long().cumprod(1).sum(1)

    totals = chosen_lengths + rejected_lengths - common
    # One copy to the host, which must know how much to reserve.
    sizes = [PairSizes(*row) for row in torch.stack([common, chosen_lengths, totals], 1).tolist()]
    column = torch.arange(max(size.total for size in sizes), device=chosen.device).expand(len(chosen), -1)
    in_chosen, in_row = column < chosen_lengths[:, None], column < totals[:, None]
    # Chosen keeps its own columns; rejected goes on after it with the position that follows the prefix.
    after = column - (chosen_lengths - common)[:, None]
    position_ids = torch.where(in_chosen, column, after).masked_fill(~in_row, 0)
    tokens = torch.where(in_chosen, _at(chosen, position_ids), _at(rejected, position_ids))
    segments = torch.where(in_chosen, CHOSEN, REJECTED)
    segments = segments.masked_fill(column < common[:, None], PREFIX).masked_fill(~in_row, PADDING)
    window, own_positions = _window(
        torch.cat([chosen, rejected]),
        torch.cat([chosen_lengths, rejected_lengths]),
        prompt_lengths.to(chosen.device).repeat(2 * len(chosen) // len(prompt_lengths)),
        torch.cat([torch.zeros_like(common), chosen_lengths - common]),
        common.repeat(2),
        column.shape[1],
    )
    tokens, pairs = tokens.masked_fill(~in_row, 0), torch.arange(len(chosen), device=chosen.device)[:, None]
    spans = Spans.of(sizes, column.shape[1], chosen.device)
    return SharedRows(
        tokens, in_row.long(), position_ids, segments, window, own_positions, pairs.expand_as(tokens), spans
    )


def _check(chosen: Tensor, attention: Tensor, rejected: Tensor, other: Tensor, lengths: Tensor) -> None:
    fits = chosen.ndim == 2 and chosen.shape == attention.shape and rejected.shape == other.shape
    fits = fits and rejected.ndim == 2 and len(rejected) == len(chosen)
    if not fits or lengths.numel() not in (len(chosen), 2 * len(chosen)):
        shapes = [tuple(value.shape) for value in (chosen, attention, rejected, other, lengths)]
        raise ValueError(
            f"shared_rows: got ids and attention of shapes {shapes[0]}, {shapes[1]} (chosen), {shapes[2]}, "
            f"{shapes[3]} (rejected) and prompt lengths {shapes[4]}; expected [pairs, seq] twice, [pairs]"
        )


def _to_the_left(ids: Tensor, attention: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Tokens without the padding before them, [pairs, width], and their numbers, [pairs]."""
    order = torch.argsort((attention == 0).long(), dim=1, stable=True)
    moved = torch.nn.functional.pad(ids.gather(1, order), (0, width - ids.shape[1]))
    return moved, (attention != 0).sum(1)


def _at(rows: Tensor, positions: Tensor) -> Tensor:
    """Entries of rows [rows, width] at positions [rows, n]; beyond a row, its last entry."""
    return rows.gather(1, positions.clamp(max=rows.shape[1] - 1))


def _window(
    rows: Tensor, lengths: Tensor, prompts: Tensor, shift: Tensor, common: Tensor, seq: int
) -> tuple[ResponseWindow, Tensor]:
    """Find the responses of rows [2 * pairs, width] in shared rows of ``seq`` columns.

    ``shift`` is the distance between a position beyond the common prefix and its column, [2 * pairs].
    """
    first = torch.minimum(prompts.clamp(min=1), lengths) - 1
    width = int((lengths - first).max())
    offset = torch.arange(width, device=rows.device)
    wanted = first[:, None] + offset
    positions = torch.minimum(wanted, lengths[:, None] - 1)
    columns = positions + torch.where(positions < common[:, None], 0, shift[:, None])
    pair = torch.arange(len(rows) // 2, device=rows.device).repeat(2)
    tokens = _at(rows, positions)
    response = (offset > 0) & (wanted < lengths[:, None])
    labels = tokens.masked_fill(~response, IGNORE_INDEX)
    return ResponseWindow(pair[:, None] * seq + columns, tokens, labels), positions
