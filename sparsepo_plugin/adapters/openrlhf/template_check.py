"""Templates of the command line: a file's path is read, and what cannot work is refused before any row."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sparsepo_plugin.adapters.pairs.texts import check_template
from sparsepo_plugin.errors import UserError

_FLAG = "--data.tokenizer_chat_template"


def check_templates(arguments: SimpleNamespace, tokenizer: Any) -> None:
    """Check the templates of prompts and conversations.

    Args:
      arguments: upstream's arguments; a template's path is replaced by the template.
      tokenizer: the policy's.

    Raises:
      UserError: a file that cannot be read, text that is no template, arguments that are no JSON, or a
        tokenizer without a template where one is needed.
    """
    data = arguments.data
    if data.tokenizer_chat_template:
        data.tokenizer_chat_template = _read_template(data.tokenizer_chat_template)
    if data.chat_template_kwargs:
        _check_arguments(data.chat_template_kwargs)
    if data.input_template:
        _check_input_template(data.input_template)
    if data.apply_chat_template and not (data.tokenizer_chat_template or tokenizer.chat_template):
        raise UserError(
            "--data.apply_chat_template: the tokenizer has none; give --data.tokenizer_chat_template"
        )
    if data.apply_chat_template:
        check_template(tokenizer, data.tokenizer_chat_template or None)


def _read_template(value: str) -> str:
    text = value
    if "{" not in value:
        try:
            text = Path(value).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise UserError(
                f"{_FLAG} {value[:200]}: got no Jinja template and no file that can be read ({reason}); "
                f"expected either"
            ) from None
    if "{{" not in text and "{%" not in text:
        raise UserError(
            f"{_FLAG}: got a text without {{{{ }}}} or {{% %}}, expected a Jinja template or the path of one"
        )
    return text


def _check_arguments(text: str) -> None:
    flag = "--data.chat_template_kwargs"
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise UserError(f"""{flag}: got {text!r}, expected JSON such as {{"enable_thinking": false}}""")


def _check_input_template(template: str) -> None:
    try:
        template.format("prompt")
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"--data.input_template: got {template!r}, expected one {{}} for the prompt and other braces "
            f"doubled ({type(error).__name__}: {error})"
        ) from None
