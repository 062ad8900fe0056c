"""Rows for TRL's trainer, made as for every trainer; TRL's own cut is the number of the prompt's tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import torch
from accelerate import PartialState
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase
from trl.data_utils import extract_prompt

from sparsepo_plugin.adapters.pairs.example import show_example
from sparsepo_plugin.adapters.pairs.prepare import check_weights, prepare
from sparsepo_plugin.adapters.pairs.texts import RowOptions
from sparsepo_plugin.adapters.pairs.weights import COLUMNS
from sparsepo_plugin.errors import UserError

WEIGHTS = "token_weights"
_UNLIMITED = 1 << 30


def prepare_rows(dataset: Any, tokenizer: Any, args: Any, name: str, *, weighted: bool = False) -> Any:
    """Make the columns that TRL's collator reads, and say what became of the rows.

    TRL keeps one prompt a pair: where only one response shares its first token with the prompt's last one,
    the other side's response begins that token early as well.

    Args:
      dataset: as TRL was given it.
      tokenizer: TRL's processing class.
      args: training arguments.
      name: of the data, for messages.
      weighted: the loss reads the data's token weights.

    Returns:
      The data set, or None where TRL's own preparation is needed: for data that are streamed or tokenised
      already, for processors of images, and where the ends of rows are kept.

    Raises:
      UserError: the rows cannot be trained on.
    """
    ours = isinstance(dataset, datasets.Dataset) and isinstance(tokenizer, PreTrainedTokenizerBase)
    if not ours or args.truncation_mode != "keep_start" or "prompt_ids" in dataset.column_names:
        if weighted:
            raise UserError(
                f"{name} data with preference_loss {args.preference_loss}: got data that TRL itself prepares "
                f"(streamed, tokenised, with images, or cut at their start), expected rows of text"
            )
        return None
    with PartialState().main_process_first():
        spoken = len(dataset) > 0 and any(
            isinstance(dataset[0].get(name), (list, dict)) for name in ("prompt", "chosen", "rejected")
        )
        if not spoken and "prompt" not in dataset.column_names:
            if weighted:
                raise UserError(
                    f"{name} data: got no column prompt, expected one with preference_loss "
                    f"{args.preference_loss}: weights count characters from the response's first one"
                )
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
        if weighted:
            check_weights(f"{name} data", found.pairs, f"preference_loss {args.preference_loss}")
        rows = found.pairs.map(_trl_columns, remove_columns=found.pairs.column_names, desc="Preparing pairs")
    if PartialState().is_main_process:
        lines = found.account.lines(f"{name} data")
        print("\n".join([*lines, *show_example(found.pairs[0], tokenizer)]), flush=True)
    return rows


class WeightsCollator:
    """TRL's collator, and the data's token weights beside what it makes.

    Args:
      collate: TRL's.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self._collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch with ``token_weights``, [2 * pairs, longest], whose rows end at the right.

        Raises:
          UserError: a row has no weights.
        """
        numbers = [torch.tensor(row[column]) for column in COLUMNS.values() for row in rows]
        weights = pad_sequence(numbers, batch_first=True, padding_value=torch.nan, padding_side="left")
        return {**self._collate(rows), WEIGHTS: weights}


def _trl_columns(row: dict[str, Any]) -> dict[str, list[Any]]:
    start = min(row["chosen_start"], row["rejected_start"])
    weights = {column: row[column] for column in COLUMNS.values() if column in row}
    return {
        **weights,
        "prompt_ids": row["chosen"][:start],
        "chosen_ids": row["chosen"][start:],
        "rejected_ids": row["rejected"][start:],
    }
