"""Rows of a data set as the command line asks for them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from sparsepo_plugin.adapters.pairs.prepare import PreparedPairs, prepare
from sparsepo_plugin.adapters.pairs.texts import RowOptions


def prepared_rows(dataset: Any, tokenizer: Any, arguments: SimpleNamespace) -> PreparedPairs:
    """Make the rows of a data set as the command line says.

    Args:
      dataset: the data as read.
      tokenizer: given the chat template of --data.tokenizer_chat_template, where there is one.
      arguments: upstream's arguments, after the preflight.

    Raises:
      UserError: the chat template is no valid Jinja.
    """
    data = arguments.data
    if data.apply_chat_template and data.tokenizer_chat_template:
        tokenizer.chat_template = data.tokenizer_chat_template
    return prepare(
        dataset,
        tokenizer,
        RowOptions(
            max_len=data.max_len,
            prompt_key=data.prompt_key or None,
            chosen_key=data.chosen_key,
            rejected_key=data.rejected_key,
            chat_template=data.apply_chat_template,
            template_arguments=json.loads(data.chat_template_kwargs or "{}"),
            input_template=data.input_template,
            upstream_end_tokens=data.upstream_end_tokens,
        ),
    )
