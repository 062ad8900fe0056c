"""Token text that can be read: no invisible characters, bytes joined to the characters they make."""

from __future__ import annotations

import re
import unicodedata

from sparsepo_plugin.run_folder.tokens import Response

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_NO_CHARACTER = "\ufffd"
_NAMED = {"\t": "\u21e5\t", "\n": "\u21b5\n", "\r": "\u240d"}


def readable(text: str, token_id: int) -> str:
    """What a token looks like on the page.

    Line ends and tabs get a sign, other control and formatting characters (which could turn the text around
    or hide it) their number; a token that is part of a character only, or empty, its token id.
    """
    if not text or _NO_CHARACTER in text:
        return f"\u27e8{token_id}\u27e9"
    if not text.strip(" "):
        return "\u2423" * len(text)
    return "".join(map(_visible, text))


def clean(text: str) -> str:
    """Running text with control and formatting characters made visible; line ends and tabs stay."""
    return "".join(char if char in "\n\t" else _visible(char) for char in text)


def _visible(char: str) -> str:
    if char in _NAMED:
        return _NAMED[char]
    # Zero-width joiners hold emoji and Indic letters together.
    hidden = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") and char != "\u200d"
    return f"\u27e8U+{ord(char):04X}\u27e9" if hidden else char


def spans(response: Response) -> list[tuple[int, int, str]]:
    """Spans of tokens to show as one piece of text: the record's own, and runs of ``<0xNN>`` tokens."""
    pieces = list(response.joined)
    taken = {position for start, end, _ in pieces for position in range(start, end)}
    start = 0
    while start < len(response.tokens):
        end = start
        while end < len(response.tokens) and end not in taken and _BYTE.fullmatch(response.tokens[end]):
            end += 1
        if end > start:
            pieces += _characters(response.tokens, start, end)
        start = max(end, start + 1)
    return [(a, b, "".join(map(_visible, text))) for a, b, text in sorted(pieces)]


def _characters(tokens: list[str], start: int, end: int) -> list[tuple[int, int, str]]:
    """Characters that byte tokens make, one span each; bytes that make none stay as they are."""
    data = bytes(int(_BYTE.fullmatch(token)[1], 16) for token in tokens[start:end])  # type: ignore[index]
    characters, start_byte = [], 0
    while start_byte < len(data):
        for size in (1, 2, 3, 4):
            try:
                text = data[start_byte : start_byte + size].decode()
            except UnicodeDecodeError:
                continue
            characters.append((start + start_byte, start + min(start_byte + size, len(data)), text))
            break
        else:
            size = 1
        start_byte += size
    return characters
