"""Rows of tokens.jsonl from the tensors of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sparsepo_plugin.types import Masks, TokenStats

# Decoding a byte that is no character alone gives this; no character takes more tokens than the limit.
_NO_CHARACTER, _LONGEST = "\ufffd", 16


class TokenRows:
    """Collects the pairs of one evaluation on one process.

    Args:
      limit: pairs with an index below it are kept.
      tokenizer: turns token ids into text.
    """

    def __init__(self, limit: int, tokenizer: Any) -> None:
        self.limit, self.tokenizer = limit, tokenizer
        self.rows: list[dict[str, Any]] = []

    def add(
        self,
        indices: Sequence[int],
        token_ids: Tensor,
        stats: TokenStats,
        masks: Masks,
        prompts: Sequence[Tensor] | None = None,
    ) -> None:
        """Keep the responses of the wanted pairs of a batch.

        Args:
          indices: index of every pair in the evaluation data.
          token_ids: input tokens, [2 * pairs, seq], chosen rows first.
          stats: token statistics, [2 * pairs, seq - 1].
          masks: masks, same shape.
          prompts: token ids of every row's prompt, where ``token_ids`` is cut to the responses.
        """
        for pair, index in enumerate(indices):
            if index < self.limit:
                for side, row in (("chosen", pair), ("rejected", len(indices) + pair)):
                    values = self._values(row, token_ids, stats, masks)
                    if prompts is not None:
                        values["prompt"] = self.tokenizer.decode(prompts[row].tolist())
                    self.rows.append({"pair": index, "side": side, **values})

    def _values(self, row: int, token_ids: Tensor, stats: TokenStats, masks: Masks) -> dict[str, Any]:
        response = stats.response_mask[row]
        start = int(response.long().argmax()) + 1
        ids = token_ids[row, 1:][response].tolist()

        def floats(value: Tensor | None) -> list[float] | None:
            return None if value is None else value[row][response].detach().float().tolist()

        reference = stats.reference_logps
        tokens = [self.tokenizer.decode([token]) for token in ids]
        return {
            "prompt": self.tokenizer.decode(token_ids[row, :start].tolist()),
            "tokens": tokens,
            "token_ids": ids,
            "joined": self._joined(ids, tokens),
            "spaced": self._spaced(int(token_ids[row, start - 1]), ids, tokens),
            "reward_mask": floats(masks.reward_mask),
            "kl_mask": floats(masks.kl_mask),
            "log_ratio": None if reference is None else floats(stats.policy_logps - reference),
            "token_kl": floats(stats.token_kl),
        }

    def _joined(self, ids: list[int], tokens: list[str]) -> list[tuple[int, int, str]]:
        """Spans [start, end) of tokens that are characters only together, with their text."""
        spans, start = [], 0
        while start < len(ids):
            end = start + 1
            if _NO_CHARACTER in tokens[start]:
                for stop in range(start + 2, min(start + _LONGEST, len(ids)) + 1):
                    text = self.tokenizer.decode(ids[start:stop])
                    if _NO_CHARACTER not in text:
                        spans.append((start, stop, text))
                        end = stop
                        break
            start = end
        return spans

    def _spaced(self, before: int, ids: list[int], tokens: list[str]) -> list[int]:
        """Places of tokens whose own text lacks the space that the running text has before them."""
        positions, left = [], self.tokenizer.decode([before])
        for position, (token, text) in enumerate(zip(ids, tokens)):
            if self.tokenizer.decode([before, token]) == f"{left} {text}":
                positions.append(position)
            before, left = token, text
        return positions

    def take(self) -> list[dict[str, Any]]:
        """Return what was kept and forget it."""
        rows, self.rows = self.rows, []
        return rows
