"""Pairs as sequences of any length: which tokens ask, and which tokens each of them may look at.

A pair is two sequences. The first asks with prefix and chosen and looks at them; the second asks with the
rest of rejected alone and looks at the prefix, gathered again, and itself. Both are causal with queries
aligned at the end, which is what variable-length kernels compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

MaskFunction = Callable[[Any, Any, Any, Any], Any]


class PairSizes(NamedTuple):
    """Tokens of a pair: the common prefix; prefix and chosen; all three parts."""

    common: int
    chosen: int
    total: int


@dataclass(frozen=True)
class Spans:
    """Sequences of queries and keys, empty ones left out.

    Attributes:
      sizes: of every pair.
      queries: flat positions in [rows, seq] of the tokens that ask, sequence by sequence; None where these
        are all positions in their order.
      keys: flat positions of the tokens looked at, sequence by sequence, [keys].
      query_sizes: tokens that ask, of every sequence.
      key_sizes: tokens looked at, of every sequence.
      query_starts: where the queries of every sequence start, and where the last ones end, int32.
      key_starts: the same of the keys.
    """

    sizes: list[PairSizes]
    queries: Tensor | None
    keys: Tensor
    query_sizes: list[int]
    key_sizes: list[int]
    query_starts: Tensor
    key_starts: Tensor

    @classmethod
    def of(cls, sizes: Sequence[PairSizes], seq: int | None, device: torch.device) -> Spans:
        """Find the sequences of pairs.

        Args:
          sizes: of every pair.
          seq: columns of the padded rows that hold a pair each; None where one row holds all without padding.
          device: where the tensors are wanted.
        """
        asking: list[range] = []
        looked_at: list[list[range]] = []
        start = 0
        for number, (common, chosen, total) in enumerate(sizes):
            at = start if seq is None else number * seq
            asking.append(range(at, at + chosen))
            looked_at.append([range(at, at + chosen)])
            if total > chosen:
                asking.append(range(at + chosen, at + total))
                looked_at.append([range(at, at + common), range(at + chosen, at + total)])
            start += total
        queries = [len(part) for part in asking]
        keys = [sum(map(len, parts)) for parts in looked_at]
        return cls(
            list(sizes),
            None if seq is None else _joined(asking).to(device),
            _joined([part for parts in looked_at for part in parts]).to(device),
            queries,
            keys,
            _starts(queries).to(device),
            _starts(keys).to(device),
        )


def _joined(parts: list[range]) -> Tensor:
    return torch.cat([torch.arange(part.start, part.stop) for part in parts])


def _starts(sizes: list[int]) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0).to(torch.int32)


@dataclass(frozen=True)
class SpanMask:
    """What layers are given as their attention mask.

    Attributes:
      spans: the sequences.
      window: keys that a query sees, itself among them; None for all before it.
      function: the model's mask over positions where it is of another form than these; else None.
    """

    spans: Spans
    window: int | None
    function: MaskFunction | None = None

    @cached_property
    def visible(self) -> list[Tensor | None]:
        """What every sequence's queries see of its keys, [queries, keys]; None for a plain causal square."""
        masks: list[Tensor | None] = []
        device = self.spans.keys.device
        for queries, keys in zip(self.spans.query_sizes, self.spans.key_sizes):
            square = queries == keys and (self.window is None or keys <= self.window)
            if square and self.function is None:
                masks.append(None)
                continue
            query = torch.arange(keys - queries, keys, device=device)[:, None]
            key = torch.arange(keys, device=device)
            masks.append(self._seen(query, key).expand(queries, keys))
        return masks

    def _seen(self, query: Tensor, key: Tensor) -> Tensor:
        if self.function is not None:
            zero = torch.zeros((), dtype=torch.long, device=key.device)
            return torch.as_tensor(self.function(zero, zero, query, key))
        seen = key <= query
        return seen if self.window is None else seen & (key > query - self.window)


def span_mask(mask_function: MaskFunction, spans: Spans) -> SpanMask:
    """A model's mask function over positions as one over sequences.

    A sequence's keys have the positions from 0 on: the prefix, and one of the parts after it.

    Args:
      mask_function: (batch, head, query, key) to whether it is seen.
      spans: the sequences.
    """
    length = max(spans.key_sizes)
    key, zero = torch.arange(length), torch.tensor(0)

    def row(query: int) -> Tensor:
        seen = mask_function(zero, zero, torch.tensor(query), key)
        return torch.as_tensor(seen).expand(length)

    window = int(row(length - 1).sum())
    # The last row gives the window; these tell a chunk, or a mask of another form, from it.
    for query in {0, window // 2, window - 1, window, window + 1, length // 2, length - 2, length - 1}:
        if 0 <= query < length and not torch.equal(row(query), (key <= query) & (key > query - window)):
            return SpanMask(spans, None, mask_function)
    return SpanMask(spans, window if window < length else None)
