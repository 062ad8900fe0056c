"""What a page is made of besides tokens: parts of texts, tables, pictures and folds, as JSON."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

from sparsepo_plugin.report.view import text

Block = dict[str, Any]
Part = dict[str, Any]


def part(name: str, title: str, content: Iterable[Block]) -> Part:
    """A section; ``name`` is its anchor."""
    return {"name": name, "title": title, "blocks": list(content)}


def paragraph(words: object) -> Block:
    """Running text."""
    return {"text": text.clean(str(words))}


def quote(words: object) -> Block:
    """Text as it is, line by line."""
    return {"quote": text.clean(str(words))}


def table(head: Sequence[object], rows: Iterable[Sequence[object]], marked: Iterable[int] = ()) -> Block:
    """A table; ``marked`` are places of rows to highlight."""
    body = [[_cell(value) for value in row] for row in rows]
    return {"table": {"head": list(map(_cell, head)), "rows": body, "marked": list(marked)}}


def fold(title: str, content: Iterable[Block]) -> Block:
    """Blocks that show when their title is clicked."""
    return {"fold": text.clean(title), "blocks": list(content)}


def picture(svg: bytes, name: str, description: str) -> Block:
    """A drawing; ``name`` is that of its file where it is saved."""
    return {"svg": base64.b64encode(svg).decode(), "name": name, "alt": text.clean(description)}


def pictures(content: Iterable[Block]) -> Block:
    """Pictures side by side as the window's width allows."""
    return {"pictures": list(content)}


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "\u2212")
    return "" if value is None else text.clean(str(value))
