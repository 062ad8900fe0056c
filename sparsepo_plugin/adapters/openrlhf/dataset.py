"""Upstream's preference dataset, with every pair knowing its index and, if asked for, its size."""

from __future__ import annotations

import os
from typing import Any

from openrlhf.datasets import RewardDataset

from sparsepo_plugin.errors import UserError


class PromptLength(int):
    """Length of a prompt in tokens that also says which pair of the dataset it belongs to.

    Upstream hands only this number from the dataset to the trainer unchanged; carrying the index in it
    makes a failing batch nameable and padding duplicates of evaluation recognisable.
    """

    index: int

    def __new__(cls, length: int, index: int) -> PromptLength:
        """Make a length in tokens that carries ``index``."""
        value = super().__new__(cls, length)
        value.index = index
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the index through worker processes."""
        return PromptLength, (int(self), self.index)


class IndexedPreferenceDataset(RewardDataset):
    """RewardDataset with PromptLength as last item; refuses a set that upstream's filter has emptied.

    Upstream silently drops pairs whose prompt leaves no room for a response; the number is printed.

    Attributes:
      sizes: tokens of every pair, those of the prompt counted once; None without --data.length_batching.

    Raises:
      UserError: no pair is left.
    """

    sizes: list[int] | None = None
    extras: Any

    def __init__(self, dataset: Any, tokenizer: Any, max_length: int, strategy: Any, **options: Any) -> None:
        # Upstream starts 8 processes even for a few hundred rows.
        self._measures = strategy.args.data.length_batching
        workers = max(1, min(8, os.cpu_count() or 1, len(dataset) // 1000))
        super().__init__(dataset, tokenizer, max_length, strategy, num_processors=workers, **options)
        if self._measures:
            self.sizes = [extra["size"] for extra in self.extras]
            self.extras = [extra["prompt"] for extra in self.extras]
        dropped = len(dataset) - len(self)
        if not len(self):
            raise UserError(
                f"no pair left of {len(dataset)}: every prompt has at least {max_length - 2} tokens, so that "
                f"max_len {max_length} leaves no response; raise --data.max_len"
            )
        if dropped:
            strategy.print(
                f"{dropped} of {len(dataset)} pairs dropped: no room for a response in max_len {max_length}"
            )

    def process_data(self, data: dict[str, Any]) -> dict[str, Any]:
        """Upstream's row; if sizes are asked for, the pair's stands beside the prompt's length."""
        row: dict[str, Any] = super().process_data(data)
        if not self._measures:
            return row
        size = 0
        if row["prompt"] is not None:
            texts = [row["prompt"] + row[part] for part in ("chosen", "reject")]
            options = {"max_length": self.max_length, "truncation": True, "add_special_tokens": False}
            size = sum(map(len, self.tokenizer(texts, **options)["input_ids"])) - row["extra"]
        return {**row, "extra": {"prompt": row["extra"], "size": size}}

    def __getitem__(self, idx: int) -> tuple[Any, ...]:
        """Upstream's item, its prompt length carrying ``idx``."""
        *tensors, length = super().__getitem__(idx)
        return (*tensors, PromptLength(length, idx))
