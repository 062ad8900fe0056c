"""Tables of texts, for a terminal and in Markdown."""

from collections.abc import Iterable, Sequence


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns aligned; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown_table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; the first row is the head, cells are taken as they are."""
    head, *body = rows
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]
