"""Texts that came from elsewhere, made fit for files, pages and terminals."""

import json
from typing import Any

import regex

from eval_harness.errors import UserError
from eval_harness.files.rows import sound


def sound_json(value: Any) -> Any:
    """The JSON value with `?` for lone surrogates in its texts."""
    if isinstance(value, str):
        return sound(value)
    if isinstance(value, list | tuple):
        return [sound_json(entry) for entry in value]
    if isinstance(value, dict):
        return {sound(key): sound_json(entry) for key, entry in value.items()}
    return value


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: without lone surrogates, NaN and infinity.

    Raises:
      UserError: a number that is not finite.
    """
    try:
        return json.dumps(sound_json(value), indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise UserError(
            "a result is not finite", got="NaN or infinity", expected="finite numbers", remedy="see --dtype"
        ) from error


def printable(text: str) -> str:
    """The text with a visible escape for what a page or a terminal would obey instead of showing.

    Escaped are control characters besides line feed and tab (NUL, ESC, ...), marks that change the direction
    of writing, other invisible format characters, and lone surrogates; letters of all scripts stay, and so do
    the joiners that some scripts and emoji need.
    """
    return text if text.isprintable() else _HIDDEN.sub(lambda match: _escaped(match[0]), text)


_HIDDEN = regex.compile(r"[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}--[\n\t\u200c\u200d]]", regex.VERSION1)


def _escaped(sign: str) -> str:
    return f"\\x{ord(sign):02x}" if ord(sign) < 256 else f"\\u{ord(sign):04x}"


def clipped(text: str, longest: int) -> str:
    """The text's end where it is longer than so many characters, with their number in front."""
    return text if len(text) <= longest else f"[{len(text) - longest} characters cut] {text[-longest:]}"
