"""A row's texts: the prompt as it is given for generation, and each whole conversation behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jinja2 import TemplateError, TemplateSyntaxError

from sparsepo_plugin.adapters.pairs.turns import (
    Turn,
    UnusableRowError,
    read_text,
    read_turns,
    split,
    without_nulls,
)
from sparsepo_plugin.adapters.pairs.weights import COLUMNS, Span, moved, read_spans
from sparsepo_plugin.errors import UserError

# What templates raise at a conversation that they do not expect.
_REFUSALS = (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError)


@dataclass(frozen=True)
class RowOptions:
    """How rows become token sequences.

    Attributes:
      max_len: most tokens of a row, prompt and response together.
      limit_name: what users call it, for messages.
      prompt_key: column of the prompt; None where chosen and rejected hold all.
      chosen_key: column of the preferred response.
      rejected_key: column of the other one.
      chat_template: render conversations with the tokenizer's template.
      template_arguments: passed to the template, as ``enable_thinking``.
      input_template: text around a plain prompt, with ``{}`` for it.
      special_tokens: let the tokenizer add those of its own to plain text, as TRL does.
      upstream_end_tokens: end every row as OpenRLHF does: with a space and an end token, which takes the
        place of the last token where the row was cut.
    """

    max_len: int
    limit_name: str = "--data.max_len"
    prompt_key: str | None = None
    chosen_key: str = "chosen"
    rejected_key: str = "rejected"
    chat_template: bool = False
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    input_template: str | None = None
    special_tokens: bool = False
    upstream_end_tokens: bool = False


class Texts(NamedTuple):
    """A row as text.

    Attributes:
      prompt: what the model is given before it answers.
      chosen: prompt and preferred response.
      rejected: prompt and the other response.
      empty: a response is empty.
      repeated: the responses began with the prompt, which was taken out of them.
      spoken: plain texts were made turns of a conversation.
      spans: weights of both responses, in characters of ``chosen`` and ``rejected``.
    """

    prompt: str
    chosen: str
    rejected: str
    empty: bool
    repeated: bool
    spoken: bool
    spans: tuple[list[Span], list[Span]] = ([], [])


def write_texts(row: Mapping[str, Any], options: RowOptions, tokenizer: Any) -> Texts:
    """Write a row out.

    Raises:
      UnusableRowError: the row holds no preference pair, or the template does not take it.
    """
    return _conversation(row, options, tokenizer) if options.chat_template else _plain(row, options)


def _plain(row: Mapping[str, Any], options: RowOptions) -> Texts:
    prompt = read_text(row[options.prompt_key], options.prompt_key) if options.prompt_key else ""
    sides = [read_text(row[key], key) for key in (options.chosen_key, options.rejected_key)]
    spans = [
        read_spans(row.get(COLUMNS[name]), COLUMNS[name], len(side)) for name, side in zip(COLUMNS, sides)
    ]
    lengths = [len(side) for side in sides]
    repeated = bool(prompt) and all(side.startswith(prompt) for side in sides)
    if repeated:
        sides = [side[len(prompt) :] for side in sides]
    if options.input_template and options.prompt_key:
        prompt = options.input_template.format(prompt)
    empty = not all(side.strip() for side in sides)
    chosen, rejected = (prompt + side.rstrip("\n") for side in sides)
    begin = len(prompt)
    shifted = [
        moved(marked, begin + len(side) - length, begin, len(whole))
        for marked, side, length, whole in zip(spans, sides, lengths, (chosen, rejected))
    ]
    return Texts(prompt, chosen, rejected, empty, repeated, False, (shifted[0], shifted[1]))


def _conversation(row: Mapping[str, Any], options: RowOptions, tokenizer: Any) -> Texts:
    keys = [options.prompt_key, options.chosen_key, options.rejected_key]
    values = [row[key] if key else [] for key in keys]
    prompt, *sides = (
        read_turns(value, str(key), speaker)
        for value, key, speaker in zip(values, keys, ("user", "assistant", "assistant"))
    )
    contents = [side[-1]["content"] if side else "" for side in sides]
    started = isinstance(values[0], str) and values[0]
    again = started and all(isinstance(v, str) and v.startswith(started) for v in values[1:])
    if again:
        for side in sides:
            side[0]["content"] = side[0]["content"][len(values[0]) :].lstrip()
    conversation = split(prompt, *sides)
    arguments = {**_row_arguments(row), **options.template_arguments}

    def render(turns: list[Turn], *, answering: bool) -> str:
        return _render(tokenizer, turns, arguments, answering=answering)

    start = render(conversation.prompt, answering=True)
    wholes = [
        render([*conversation.prompt, side], answering=False)
        for side in (conversation.chosen, conversation.rejected)
    ]
    for name, whole in zip(("chosen", "rejected"), wholes):
        if not whole.startswith(start):
            _check_common_start(name, whole, start, render(conversation.prompt, answering=False))
    empty = not all(_says_something(side) for side in (conversation.chosen, conversation.rejected))
    spoken = any(isinstance(value, str) for value in values)
    turns = (conversation.chosen["content"], conversation.rejected["content"])
    spans = [
        _spans_in(
            whole, len(start) if whole.startswith(start) else 0, turn, row.get(COLUMNS[name]), name, content
        )
        for name, whole, turn, content in zip(COLUMNS, wholes, turns, contents)
    ]
    texts = Texts(start, wholes[0], wholes[1], empty, bool(conversation.repeated or again), spoken)
    return texts._replace(spans=(spans[0], spans[1]))


def _spans_in(whole: str, begin: int, turn: str, given: Any, name: str, content: str) -> list[Span]:
    """Weights of a response where its text stands in the rendered conversation.

    Args:
      whole: the conversation.
      begin: where the response cannot begin before.
      turn: the response's text as it was rendered.
      given: the column's value, in characters of ``content``.
      name: of the side.
      content: the response's text as the row holds it; ``turn`` may lack its beginning.

    Raises:
      UnusableRowError: the column is malformed, or the template does not write the response as it is.
    """
    spans = read_spans(given, COLUMNS[name], len(content))
    if not spans:
        return []
    words = turn.strip()  # templates strip responses
    start = whole.find(words, begin) if begin else whole.rfind(words)
    if start < 0:
        raise UnusableRowError(
            f"{name}: the chat template does not write the response as it is, so that {COLUMNS[name]} has no "
            f"place in it"
        )
    gone = len(content) - len(turn.lstrip())
    return moved(spans, start - gone, start, start + len(words))


def _says_something(turn: Turn) -> bool:
    return bool(turn["content"].strip() or turn.get("tool_calls"))


def _row_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """What TRL's data sets give to the template with a row: its tools and its own arguments."""
    tools, own = row.get("tools"), without_nulls(row.get("chat_template_kwargs") or {})
    try:
        tools = json.loads(tools) if isinstance(tools, str) and tools else without_nulls(tools)
    except ValueError as error:
        raise UnusableRowError(f"column 'tools': got text that is not JSON ({error})") from None
    if not isinstance(own, dict):
        raise UnusableRowError(
            f"column 'chat_template_kwargs': got {type(own).__name__}, expected names with values"
        )
    return {"tools": tools, **own} if tools else own


def check_template(tokenizer: Any, template: str | None = None) -> None:
    """Compile a chat template.

    Args:
      tokenizer: its own template is checked where none is given.
      template: the template.

    Raises:
      UserError: it is not valid Jinja.
    """
    # What it says to this conversation does not matter: whether it takes a row is known of the row.
    with suppress(UnusableRowError):
        arguments = {} if template is None else {"chat_template": template}
        _render(tokenizer, [{"role": "user", "content": "?"}], arguments, answering=True)


def _render(tokenizer: Any, turns: list[Turn], arguments: dict[str, Any], *, answering: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=answering, **arguments
        )
    except TemplateSyntaxError as error:
        raise UserError(
            f"the chat template is not valid Jinja: line {error.lineno}: {error.message}; mend it, or give "
            f"another (--data.tokenizer_chat_template in OpenRLHF)"
        ) from None
    except _REFUSALS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnusableRowError(f"the chat template refuses the conversation: {reason}") from None
    return text


def _check_common_start(name: str, whole: str, start: str, prompt: str) -> None:
    """Refuse a response where the conversation differs from the prompt before the assistant's turn begins.

    Args:
      name: of the side.
      whole: the rendered conversation.
      start: the prompt rendered for generation, no prefix of ``whole``.
      prompt: the prompt rendered without asking for an answer.
    """
    # The end of the prompt's own turns: behind it the template has put what opens an answer, as "<think>".
    opened = common_length(start, prompt)
    if common_length(start, whole) < opened:
        raise UnusableRowError(
            f"{name} cannot be cut out of the conversation: the chat template writes the prompt differently "
            f"where a response follows"
        )


def common_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Number of entries that two sequences begin with alike."""
    shorter = min(len(first), len(second))
    return next((n for n in range(shorter) if first[n] != second[n]), shorter)
