"""The reference's log-probabilities of all tokens, computed before the training instead of at every step.

Upstream computes and stores sums over responses, under a hash of model and data. It stores rows of numbers
as well: here a response has one per token, from its first token on, and nan up to a common width.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from torch import Tensor

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.pair_statistics import statistics
from sparsepo_plugin.forward.runner import ModelOutput
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX
from sparsepo_plugin.forward.window import ResponseWindow
from sparsepo_plugin.types import Needs

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


def possible(needs: Needs) -> bool:
    """Whether the reference's log-probabilities are all that a loss and its masks read of it."""
    return not (needs.token_kl or needs.hidden_states or needs.activations)


def marked(dataset: Any, args: Any) -> Any:
    """The data set under a name of its own in upstream's cache, which may hold upstream's own sums of it."""
    if not isinstance(dataset, Dataset):
        return dataset
    settings = (args.max_length, args.truncation_mode, args.bf16, args.fp16)
    named = dataset.select(range(len(dataset)))
    named._fingerprint = Hasher.hash((dataset._fingerprint, "one number per token", settings))
    return named


def width(dataset: Any) -> int:
    """Tokens of the longest response of a data set."""
    columns = dataset.select_columns(["chosen_ids", "rejected_ids"])
    return max((len(ids) for row in columns for ids in row.values()), default=0)


def rows_of(reference: ModelOutput, columns: int) -> Tensor:
    """Log-probabilities of a batch for upstream's cache, [2 * pairs, columns], chosen rows first.

    Args:
      reference: the reference's view of the batch.
      columns: as ``width`` gives it.
    """
    stats = statistics(reference, None, with_kl=False)
    rows = stats.policy_logps.new_full((len(stats.policy_logps), columns), torch.nan)
    rows[_to_the_left(stats.response_mask, columns)] = stats.policy_logps[stats.response_mask]
    return rows


def in_window(stored: Tensor, window: ResponseWindow) -> Tensor:
    """What ``rows_of`` gave, in the window's layout, [2 * pairs, width - 1]; 0 where there is no token.

    Args:
      stored: rows of the batch, [2 * pairs, columns].
      window: where the responses lie.

    Raises:
      UserError: other responses than those that the numbers were computed for.
    """
    response_mask = window.labels[:, 1:] != IGNORE_INDEX
    numbers = ~stored.isnan()
    if stored.ndim != 2 or not torch.equal(numbers.sum(1), response_mask.sum(1)):
        raise UserError(
            f"precompute_ref_log_probs: got {', '.join(COLUMNS)} of other responses than the batch's, "
            f"expected a number per response token; drop these columns from the data"
        )
    found = stored.new_zeros(response_mask.shape)
    found[response_mask] = stored[_to_the_left(response_mask, stored.shape[1])]
    return found


def _to_the_left(response_mask: Tensor, columns: int) -> Tensor:
    """True in the first places of every row, as many as it has response tokens, [rows, columns]."""
    return torch.arange(columns, device=response_mask.device) < response_mask.sum(1, keepdim=True)
