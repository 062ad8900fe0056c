"""The reference's log-probabilities of all tokens in TRL's cache, computed before the training.

Upstream computes and stores sums over responses, under a hash of model and data. It stores rows of numbers
as well: here a response has one per token; see ``adapters.reference_logps``.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from datasets.fingerprint import Hasher

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
NAMED = f"precompute_ref_log_probs: {' and '.join(COLUMNS)} of the data (drop these columns)"


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
