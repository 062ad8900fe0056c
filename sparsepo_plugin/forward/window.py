"""The response window: of every row the positions that a loss reads, and nothing of prompt and padding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX


class _Fields(NamedTuple):
    source: Tensor
    token_ids: Tensor
    labels: Tensor


class ResponseWindow(_Fields):
    """Where the positions of the responses lie in what a model computed.

    Column 0 of a row is the position that predicts the first response token; columns 1.. are the response
    tokens. Cut to the window, ids, labels and states have the form that losses and masks expect, with
    prompts of one token.

    Attributes:
      source: flat position in the model's own layout, [2 * pairs, width]; padding repeats some valid one.
      token_ids: [2 * pairs, width].
      labels: response token ids, -100 at column 0 and on padding, same shape.
    """

    def take(self, value: Tensor) -> Tensor:
        """Cut the window out of values [rows, seq, ...] of the model's layout: [2 * pairs, width, ...]."""
        return value.flatten(0, 1)[self.source]

    def predicting(self) -> tuple[Tensor, Tensor]:
        """Coordinates in [2 * pairs, width - 1] of the positions that predict a response token."""
        return self._predicting

    @cached_property
    def _predicting(self) -> tuple[Tensor, Tensor]:
        # Once for both models and the loss: a GPU must wait until the number of places is known.
        rows, columns = (self.labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
        return rows, columns


def response_window(ids: Tensor, labels: Tensor) -> ResponseWindow:
    """Cut the responses out of padded rows.

    Args:
      ids: input tokens, [rows, seq].
      labels: response token ids, -100 on prompt and padding, [rows, seq]; padding may stand on either side.
        A label at position 0 has no predicting position and is left out.

    Raises:
      ValueError: shapes differ.
    """
    if ids.shape != labels.shape or ids.ndim != 2:
        raise ValueError(
            f"ids and labels must be [rows, seq] alike: got {tuple(ids.shape)} and {tuple(labels.shape)}"
        )
    predicts = labels[:, 1:] != IGNORE_INDEX
    count = predicts.shape[1]
    first = predicts.int().argmax(1) if count else ids.new_zeros(len(ids))
    last = count - 1 - predicts.int().flip(1).argmax(1) if count else first - 1
    length = torch.where(predicts.any(1), last - first + 1, 0)
    offset = torch.arange(int(length.max()) + 1 if len(ids) else 1, device=ids.device)
    inside = offset <= length[:, None]
    columns = torch.where(inside, first[:, None] + offset, first[:, None])
    responses = labels.gather(1, columns).masked_fill(~inside | (offset == 0), IGNORE_INDEX)
    rows = torch.arange(len(ids), device=ids.device)[:, None]
    return ResponseWindow(rows * ids.shape[1] + columns, ids.gather(1, columns), responses)


def numbers_in(window: ResponseWindow, rows: Sequence[Sequence[float]]) -> Tensor:
    """A number per response token in the window's layout, [2 * pairs, width - 1], float32; nan elsewhere.

    Args:
      window: where the responses are.
      rows: of every row a number per response token, to its last one. Rows without a prompt have one
        more, for the first token, which nothing predicts; others may lack the first ones.
    """
    response = (window.labels[:, 1:] != IGNORE_INDEX).cpu()
    numbers = torch.full(response.shape, torch.nan)
    for row, (values, count) in enumerate(zip(rows, response.sum(1).tolist())):
        known = min(count, len(values))
        numbers[row, count - known : count] = torch.tensor(values[len(values) - known :])
    return numbers.to(window.labels.device)


def packed_source(source: Tensor, attention: Tensor) -> Tensor:
    """Flat positions in padded rows as positions in the packed row that holds only what is attended to.

    Args:
      source: [rows, width] flat positions in [rows, seq].
      attention: the attention mask, [rows, seq].
    """
    order = attention.flatten().bool().long().cumsum(0) - 1
    return order[source].clamp(min=0)
