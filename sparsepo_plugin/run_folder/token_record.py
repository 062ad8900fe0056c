"""Token-level record of evaluation pairs: what the masks did, token by token, as JSON lines.

One line per response: ``schema_version``, ``step``, ``pair`` (index in the evaluation data), ``side``
("chosen" or "rejected"), ``prompt`` (text), and lists with one entry per response token: ``tokens`` (text),
``token_ids``, ``reward_mask``, ``kl_mask`` (null without a KL term), ``log_ratio`` and ``token_kl`` (nats;
null without a reference); and ``joined``: [start, end, text] of tokens that are characters only together, and
``spaced``: places of tokens that follow a space which their own text lacks.
Lines are sorted by pair, chosen first. Beside it, ``mask_histograms.jsonl``: one line per evaluation.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsepo_plugin.checkpoint import write_text
from sparsepo_plugin.types import Masks, TokenStats

FILE = "tokens.jsonl"
HISTOGRAMS_FILE = "mask_histograms.jsonl"
SCHEMA_VERSION = 1
# Edges of the histogram's bins: eight a decade. Values below the first or from the last on are counted too.
EDGES = tuple(round(10 ** (exponent / 8), 9) for exponent in range(-24, 9))
# Decoding a byte that is no character alone gives this; no character takes more tokens than the limit.
_NO_CHARACTER, _LONGEST = "\ufffd", 16


class TokenRecord:
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
        for place, index in enumerate(indices):
            if index < self.limit:
                for side, row in (("chosen", place), ("rejected", len(indices) + place)):
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
        places, left = [], self.tokenizer.decode([before])
        for place, (token, text) in enumerate(zip(ids, tokens)):
            if self.tokenizer.decode([before, token]) == f"{left} {text}":
                places.append(place)
            before, left = token, text
        return places

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
    masks = {name: _histogram([row[name] for row in unique.values()]) for name in ("reward_mask", "kl_mask")}
    with open(folder / HISTOGRAMS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps({**head, "edges": EDGES, **masks}) + "\n")


def forget(folder: Path) -> None:
    """Remove what an earlier run recorded into the folder."""
    for name in (FILE, HISTOGRAMS_FILE):
        (folder / name).unlink(missing_ok=True)


def _histogram(rows: list[list[float] | None]) -> dict[str, Any] | None:
    """Count values that are exactly 0, and the others below the first edge, in every bin, above the last."""
    if not rows or rows[0] is None:
        return None
    counts, zeros = [0] * (len(EDGES) + 1), 0
    for value in (value for row in rows for value in row or ()):
        if value == 0:
            zeros += 1
        else:
            counts[bisect.bisect_right(EDGES, value)] += 1
    return {"zeros": zeros, "counts": counts}
