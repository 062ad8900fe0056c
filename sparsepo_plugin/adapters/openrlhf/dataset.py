"""The preference data set that upstream's trainer is given: rows made by ``adapters.pairs``."""

from __future__ import annotations

from typing import Any

import torch
from openrlhf.datasets import RewardDataset

from sparsepo_plugin.adapters.openrlhf.reference_cache import StoredLogps
from sparsepo_plugin.adapters.openrlhf.rows import prepared_rows


class PromptLength(int):
    """Tokens before a pair's chosen response; also says where the rejected one begins, and which pair it is.

    Upstream hands only this number from the data set to the trainer unchanged. The index makes a failing
    batch nameable and padding duplicates of evaluation recognisable.

    Attributes:
      index: of the pair in the data set.
      rejected: tokens before the rejected response.
      weights: the data's numbers for the tokens of chosen and of rejected response, if they have any.
    """

    index: int
    rejected: int
    weights: tuple[list[float], list[float]] | None

    def __new__(
        cls,
        length: int,
        index: int,
        rejected: int | None = None,
        weights: tuple[list[float], list[float]] | None = None,
    ) -> PromptLength:
        """Make a length in tokens; ``rejected`` is ``length`` too where not given."""
        value = super().__new__(cls, length)
        value.index, value.rejected = index, length if rejected is None else rejected
        value.weights = weights
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep what it says through worker processes."""
        return PromptLength, (int(self), self.index, self.rejected, self.weights)


class PromptLengths(list[int]):
    """A batch's PromptLength values; doubled, as upstream does it for its rows, each side has its own."""

    def __mul__(self, times: Any) -> list[int]:
        """Lengths of the chosen rows, then of the rejected ones.

        Raises:
          ValueError: for any number but 2.
        """
        if times != 2:
            raise ValueError(f"PromptLengths: got {times} times, expected 2: chosen and rejected rows")
        return [*self, *(getattr(length, "rejected", length) for length in self)]


class IndexedPreferenceDataset(RewardDataset):
    """Upstream's data set with rows of ours, made once and kept in the datasets cache.

    Upstream cuts responses out of a rendered text at the number of the prompt's characters, tokenises anew
    at every access, and ends a cut response with an end token; see ``adapters.pairs``.

    Attributes:
      account: what became of the rows of the data.
      sizes: tokens of every pair, those of the prompt counted once; None without --data.length_batching.
      reference: the reference's log-probabilities, where they were computed before the training.

    Raises:
      UserError: the rows cannot be trained on.
    """

    reference: StoredLogps | None = None

    def __init__(
        self,
        dataset: Any,
        tokenizer: Any,
        max_length: int,
        strategy: Any,
        input_template: str | None = None,
        is_dpo: bool = True,
        num_processors: int = 8,
    ) -> None:
        # Upstream's own __init__ makes rows of text; what the rest of the class reads is set here.
        arguments = strategy.args
        self.is_dpo, self.tokenizer, self.strategy, self.max_length = is_dpo, tokenizer, strategy, max_length
        self.pairs, self.account = prepared_rows(dataset, tokenizer, arguments)
        self.account.check("the data")
        self.sizes = self._sizes() if arguments.data.length_batching else None
        # Upstream makes the training set first, after which the strategy knows its steps.
        named = "evaluation data" if getattr(strategy, "steps", 0) else "data"
        for line in self.account.lines(named):
            strategy.print(line)

    def _sizes(self) -> list[int]:
        return [_tokens(row) for row in self.pairs]

    def tokens(self, index: int) -> int:
        """Tokens of a pair, those of the prompt counted once."""
        return _tokens(self.pairs[int(index)])

    def __len__(self) -> int:
        """Pairs kept."""
        return len(self.pairs)

    def row_number(self, index: int) -> int:
        """Number of a pair in the data as read, of which some were dropped."""
        return int(self.pairs[int(index)]["row"])

    def __getitem__(self, idx: int) -> tuple[Any, ...]:
        """Token ids and attention mask of both rows, each [1, seq], and the pair's PromptLength."""
        row = self.pairs[int(idx)]
        tensors = []
        for name in ("chosen", "rejected"):
            ids = torch.tensor([row[name]])
            tensors += [ids, torch.ones_like(ids)]
        weights = (row["chosen_weights"], row["rejected_weights"]) if "chosen_weights" in row else None
        return (*tensors, PromptLength(row["chosen_start"], idx, row["rejected_start"], weights))

    def collate_fn(self, item_list: list[Any]) -> tuple[Any, ...]:
        """Upstream's batch; the lengths know both sides."""
        *tensors, lengths = super().collate_fn(item_list)
        return (*tensors, PromptLengths(lengths))


def _tokens(row: dict[str, Any]) -> int:
    return len(row["chosen"]) + len(row["rejected"]) - int(row["chosen_start"])
