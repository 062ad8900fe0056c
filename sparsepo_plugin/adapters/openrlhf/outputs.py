"""A batch of pairs in the form the core wants it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from sparsepo_plugin.adapters import prefix
from sparsepo_plugin.adapters.prefix import SharedRows
from sparsepo_plugin.forward.runner import ModelOutput
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX
from sparsepo_plugin.forward.window import ResponseWindow, numbers_in, packed_source, response_window


class Batch(NamedTuple):
    """A batch of pairs as both models are given it.

    Attributes:
      ids: input tokens, [2 * pairs, seq], chosen rows first; [pairs, seq] where pairs share their prefix, and
        [1, tokens] where they stand in one row.
      attention: attention mask, same shape.
      window: where the responses lie in the rows, or in the one packed row.
      prompts: token ids of every row's prompt.
      indices: dataset index of every pair.
      shared: the rows as pairs that share their prefix, or None.
      weights: numbers of the data in the window's layout, or None.
    """

    ids: Tensor
    attention: Tensor
    window: ResponseWindow
    prompts: list[Tensor]
    indices: list[int]
    shared: SharedRows | None = None
    weights: Tensor | None = None

    def running(self) -> AbstractContextManager[None]:
        """Within the context a model's forward pass reads the batch as it is laid out."""
        return nullcontext() if self.shared is None else prefix.sharing(self.shared)


class BatchOutput(NamedTuple):
    """One model's view of a batch; travels through fit() in the slot of the chosen log-probabilities."""

    batch: Batch
    model: ModelOutput


def make_shared_batch(
    chosen: tuple[Tensor, Tensor],
    rejected: tuple[Tensor, Tensor],
    prompt_lengths: list[int],
    *,
    packed: bool,
) -> Batch:
    """Lay pairs out in rows that hold their common prefix once.

    Args:
      chosen: token ids and attention mask, each [pairs, seq], right-padded.
      rejected: the same, [pairs, seq'].
      prompt_lengths: PromptLength of every pair.
      packed: one row holds all pairs, without padding.
    """
    each = prompt_lengths * 2  # as upstream doubles it; a PromptLengths knows both sides
    lengths = torch.tensor([int(length) for length in each], device=chosen[0].device)
    rows = prefix.shared_rows(*chosen, *rejected, lengths)
    rows = rows.packed() if packed else rows
    prompts = [row[: int(n)] for row, n in zip([*chosen[0], *rejected[0]], each)]
    window, indices = rows.window, dataset_indices(prompt_lengths)
    weights = token_weights(window, prompt_lengths)
    return Batch(rows.token_ids, rows.attention_mask, window, prompts, indices, rows, weights)


def make_padded_batch(
    chosen: tuple[Tensor, Tensor],
    rejected: tuple[Tensor, Tensor],
    prompt_lengths: list[int],
    *,
    packed: bool,
) -> Batch:
    """Lay pairs out in two rows each; arguments as ``make_shared_batch``, packed by the model itself."""
    width = max(chosen[0].shape[1], rejected[0].shape[1])
    sides = zip(chosen, rejected)
    ids, attention = (torch.cat([pad(part, (0, width - part.shape[1])) for part in both]) for both in sides)
    return make_batch(ids, attention, prompt_lengths * 2, packed=packed)


def dataset_indices(prompt_lengths: Sequence[int]) -> list[int]:
    """Dataset index of every PromptLength; -1 for a plain length, as upstream's own dataset gives it."""
    return [getattr(length, "index", -1) for length in prompt_lengths]


def make_batch(ids: Tensor, attention: Tensor, prompt_lengths: Sequence[int], *, packed: bool) -> Batch:
    """Find the responses of padded rows.

    Args:
      ids: [2 * pairs, seq], right-padded, chosen rows first.
      attention: attention mask, same shape.
      prompt_lengths: PromptLength of every row.
      packed: the model packs the rows into one.
    """
    window = response_window(ids, response_labels(ids, attention, prompt_lengths))
    if packed:
        window = window._replace(source=packed_source(window.source, attention))
    prompts = [row[: int(length)] for row, length in zip(ids, prompt_lengths)]
    pairs = prompt_lengths[: len(prompt_lengths) // 2]
    weights = token_weights(window, pairs)
    return Batch(ids, attention, window, prompts, dataset_indices(pairs), weights=weights)


def token_weights(window: ResponseWindow, prompt_lengths: Sequence[int]) -> Tensor | None:
    """Numbers of the data in the window's layout, [2 * pairs, width - 1]; None where a pair has none."""
    pairs = [getattr(length, "weights", None) for length in prompt_lengths]
    known = [pair for pair in pairs if pair is not None]
    if len(known) < len(pairs):
        return None
    return numbers_in(window, [pair[side] for side in (0, 1) for pair in known])


def response_labels(ids: Tensor, attention: Tensor, prompt_lengths: Sequence[int]) -> Tensor:
    """Token ids on response tokens, -100 on prompt and padding, [rows, seq]."""
    positions = torch.arange(ids.shape[1], device=ids.device)
    lengths = torch.tensor([int(length) for length in prompt_lengths], device=ids.device)
    response = attention.bool() & (positions >= lengths[:, None])
    return ids.masked_fill(~response, IGNORE_INDEX)
