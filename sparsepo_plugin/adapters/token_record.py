"""Token-level record of evaluation pairs: what the masks did, token by token, as JSON lines.

One line per response: ``schema_version``, ``step``, ``pair`` (index in the evaluation data), ``side``
("chosen" or "rejected"), ``prompt`` (text), and lists with one entry per response token: ``tokens`` (text),
``token_ids``, ``reward_mask``, ``kl_mask`` (null without a KL term), ``log_ratio`` and ``token_kl`` (nats;
null where the loss needs none). Lines are sorted by pair, chosen first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsepo_plugin.checkpoint import write_text
from sparsepo_plugin.types import Masks, TokenStats

FILE = "tokens.jsonl"
SCHEMA_VERSION = 1


class TokenRecord:
    """Collects the pairs of one evaluation on one process.

    Args:
      limit: pairs with an index below it are kept.
      tokenizer: turns token ids into text.
    """

    def __init__(self, limit: int, tokenizer: Any) -> None:
        self.limit, self.tokenizer = limit, tokenizer
        self.rows: list[dict[str, Any]] = []

    def add(self, indices: Sequence[int], token_ids: Tensor, stats: TokenStats, masks: Masks) -> None:
        """Keep the responses of the wanted pairs of a batch.

        Args:
          indices: index of every pair in the evaluation data.
          token_ids: input tokens, [2 * pairs, seq], chosen rows first.
          stats: token statistics, [2 * pairs, seq - 1].
          masks: masks, same shape.
        """
        for place, index in enumerate(indices):
            if index < self.limit:
                for side, row in (("chosen", place), ("rejected", len(indices) + place)):
                    self.rows.append(
                        {"pair": index, "side": side, **self._values(row, token_ids, stats, masks)}
                    )

    def _values(self, row: int, token_ids: Tensor, stats: TokenStats, masks: Masks) -> dict[str, Any]:
        response = stats.response_mask[row]
        start = int(response.long().argmax()) + 1
        ids = token_ids[row, 1:][response].tolist()

        def floats(value: Tensor | None) -> list[float] | None:
            return None if value is None else value[row][response].detach().float().tolist()

        reference = stats.reference_logps
        return {
            "prompt": self.tokenizer.decode(token_ids[row, :start].tolist()),
            "tokens": [self.tokenizer.decode([token]) for token in ids],
            "token_ids": ids,
            "reward_mask": floats(masks.reward_mask),
            "kl_mask": floats(masks.kl_mask),
            "log_ratio": None if reference is None else floats(stats.policy_logps - reference),
            "token_kl": floats(stats.token_kl),
        }

    def take(self) -> list[dict[str, Any]]:
        """Return what was kept and forget it."""
        rows, self.rows = self.rows, []
        return rows


def write(folder: Path, step: int, rows: list[dict[str, Any]]) -> None:
    """Write the rows of all processes, atomically; an earlier evaluation's record is replaced.

    A pair seen twice, because it pads the evaluation data to the number of processes, is written once.
    """
    unique = {(row["pair"], row["side"]): row for row in rows}
    head = {"schema_version": SCHEMA_VERSION, "step": step}
    lines = (json.dumps({**head, **unique[key]}, ensure_ascii=False) for key in sorted(unique))
    write_text(folder / FILE, "".join(line + "\n" for line in lines))
