"""Conversations in the forms in which people store them, brought into the form that chat templates read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Turn = dict[str, Any]

# ShareGPT's names of the speakers, to those of chat templates.
_SPEAKERS = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant"}
# What a CSV file makes of a list of turns: its text.
_LISTED_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*['"](role|content|from|value)['"]\s*:""")


class UnusableRowError(Exception):
    """Why a row cannot become a preference pair, in words that follow "row N: "."""


class Conversation(NamedTuple):
    """A preference pair as turns.

    Attributes:
      prompt: turns before the responses; the last one is not the assistant's.
      chosen: the assistant's preferred turn.
      rejected: the other one.
      repeated: a response began with the prompt, which was taken out of it.
    """

    prompt: list[Turn]
    chosen: Turn
    rejected: Turn
    repeated: bool


def read_turns(value: Any, column: str, speaker: str) -> list[Turn]:
    """Read a column's value as turns.

    Args:
      value: text, a turn, or a list of turns with ``role`` and ``content`` or ShareGPT's ``from`` and
        ``value``; contents may be lists of text parts.
      column: its name, for the message.
      speaker: role of a plain text.

    Raises:
      UnusableRowError: the value is none of these.
    """
    if isinstance(value, str):
        return [{"role": speaker, "content": read_text(value, column)}]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence):
        raise UnusableRowError(f"column {column!r}: got {type(value).__name__}, expected text or turns")
    return [_read_turn(turn, f"column {column!r}, turn {number}") for number, turn in enumerate(value)]


def read_text(value: Any, column: str) -> str:
    """Read a column's value as plain text.

    Raises:
      UnusableRowError: it is none, or a list of turns that a table has turned into text.
    """
    if not isinstance(value, str):
        turns = " (conversations need a chat template: --data.apply_chat_template in OpenRLHF)"
        hint = turns if isinstance(value, (list, dict)) else ""
        raise UnusableRowError(f"column {column!r}: got {type(value).__name__}, expected text{hint}")
    if _LISTED_AS_TEXT.match(value):
        raise UnusableRowError(
            f"column {column!r}: got a list of turns written out as text, expected text, or turns as JSON "
            f"lines or Parquet keep them"
        )
    return value


def split(prompt: list[Turn], chosen: list[Turn], rejected: list[Turn]) -> Conversation:
    """Part a pair's turns into what comes before the responses, and the responses.

    Turns that repeat the prompt, and turns that both sides begin with, belong before the responses.

    Raises:
      UnusableRowError: what is left of a side is not exactly one turn of the assistant.
    """
    sides = [side[len(prompt) :] if side[: len(prompt)] == prompt else side for side in (chosen, rejected)]
    repeated = bool(prompt) and (len(sides[0]), len(sides[1])) != (len(chosen), len(rejected))
    longest = max(0, min(len(side) for side in sides) - 1)
    shared = next((n for n in range(longest) if sides[0][n] != sides[1][n]), longest)
    begun = sides[0][:shared]
    if prompt and begun and (prompt[-1]["role"], begun[0]["role"]) == ("user", "user"):
        raise UnusableRowError("chosen and rejected begin with a user turn that differs from the prompt's")
    before = [*prompt, *begun]
    for name, side in zip(("chosen", "rejected"), sides):
        roles = [turn["role"] for turn in side[shared:]]
        if roles != ["assistant"]:
            got = " and ".join(filter(None, [", ".join(roles[:-1]), *roles[-1:]])) or "none"
            raise UnusableRowError(
                f"{name}: got {got} after the turns of the prompt, expected one turn of the assistant"
            )
    if not before:
        raise UnusableRowError(
            "got no turn before the response, expected a prompt (--data.prompt_key in OpenRLHF)"
        )
    if before[-1]["role"] == "assistant":
        raise UnusableRowError(
            "the prompt ends in a turn of the assistant, expected the turn that is answered"
        )
    return Conversation(before, sides[0][shared], sides[1][shared], repeated)


def _read_turn(turn: Any, place: str) -> Turn:
    if not isinstance(turn, Mapping):
        raise UnusableRowError(f"{place}: got {type(turn).__name__}, expected a role and a content")
    # Arrow gives every turn the keys of all others, as nulls.
    message: Turn = without_nulls(turn)
    if "role" not in message and "from" in message:
        speaker = str(message.pop("from"))
        message = {
            "role": _SPEAKERS.get(speaker.lower(), speaker),
            "content": message.pop("value", None),
            **message,
        }
    if not isinstance(message.get("role"), str):
        raise UnusableRowError(
            f"{place}: got {', '.join(message) or 'nothing'}, expected a role and a content"
        )
    message["content"] = _read_content(message, place)
    return message


def _read_content(turn: Turn, place: str) -> str:
    content = turn.get("content")
    if content is None and turn.get("tool_calls"):
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not content:
        kind = "none" if content is None else type(content).__name__
        raise UnusableRowError(f"{place}: got {kind} as content, expected text")
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    if not all(isinstance(part, str) for part in parts):
        kinds = sorted({str(part.get("type")) for part in content if isinstance(part, Mapping)} - {"text"})
        raise UnusableRowError(f"{place}: got parts of type {', '.join(kinds) or 'none'}, expected text")
    return "".join(map(str, parts))


def without_nulls(value: Any) -> Any:
    """The value without the keys that hold nothing, at any depth."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
