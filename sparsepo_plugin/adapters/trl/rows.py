"""Rows for TRL's trainer, made as for every trainer; TRL's own cut is the number of the prompt's tokens."""

from __future__ import annotations

from typing import Any

import datasets
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase
from trl.data_utils import extract_prompt

from sparsepo_plugin.adapters.pairs.example import show_example
from sparsepo_plugin.adapters.pairs.prepare import prepare
from sparsepo_plugin.adapters.pairs.texts import RowOptions

_UNLIMITED = 1 << 30


def prepare_rows(dataset: Any, tokenizer: Any, args: Any, name: str) -> Any:
    """Make the columns that TRL's collator reads, and say what became of the rows.

    TRL keeps one prompt a pair: where only one response shares its first token with the prompt's last one,
    the other side's response begins that token early as well.

    Args:
      dataset: as TRL was given it.
      tokenizer: TRL's processing class.
      args: training arguments.
      name: of the data, for messages.

    Returns:
      The data set, or None where TRL's own preparation is needed: for data that are streamed or tokenised
      already, for processors of images, and where the ends of rows are kept.

    Raises:
      UserError: the rows cannot be trained on.
    """
    ours = isinstance(dataset, datasets.Dataset) and isinstance(tokenizer, PreTrainedTokenizerBase)
    if not ours or args.truncation_mode != "keep_start" or "prompt_ids" in dataset.column_names:
        return None
    with PartialState().main_process_first():
        spoken = len(dataset) > 0 and any(
            isinstance(dataset[0].get(name), (list, dict)) for name in ("prompt", "chosen", "rejected")
        )
        if not spoken and "prompt" not in dataset.column_names:
            dataset = dataset.map(extract_prompt, desc=f"Extracting prompt from {name} dataset")
        options = RowOptions(
            max_len=args.max_length or _UNLIMITED,
            limit_name="max_length",
            prompt_key="prompt" if "prompt" in dataset.column_names else None,
            chat_template=spoken,
            special_tokens=True,
        )
        found = prepare(dataset, tokenizer, options)
        found.account.check(f"{name} data")
        rows = found.pairs.map(_trl_columns, remove_columns=found.pairs.column_names, desc="Preparing pairs")
    if PartialState().is_main_process:
        lines = found.account.lines(f"{name} data")
        print("\n".join([*lines, *show_example(found.pairs[0], tokenizer)]), flush=True)
    return rows


def _trl_columns(row: dict[str, Any]) -> dict[str, list[int]]:
    start = min(row["chosen_start"], row["rejected_start"])
    return {
        "prompt_ids": row["chosen"][:start],
        "chosen_ids": row["chosen"][start:],
        "rejected_ids": row["rejected"][start:],
    }
