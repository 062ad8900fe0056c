"""Upstream's preference dataset, with every pair knowing its index."""

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

    Raises:
      UserError: no pair is left.
    """

    def __init__(self, dataset: Any, tokenizer: Any, max_length: int, strategy: Any, **options: Any) -> None:
        # Upstream starts 8 processes even for a few hundred rows.
        workers = max(1, min(8, os.cpu_count() or 1, len(dataset) // 1000))
        super().__init__(dataset, tokenizer, max_length, strategy, num_processors=workers, **options)
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

    def __getitem__(self, idx: int) -> tuple[Any, ...]:
        """Upstream's item, its prompt length carrying ``idx``."""
        *tensors, length = super().__getitem__(idx)
        return (*tensors, PromptLength(length, idx))
