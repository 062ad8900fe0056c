"""Rows of data: objects of a JSON list or of JSON Lines, gzipped or not."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError

Row = dict[str, Any]
PROMPT_KEYS = ("prompt", "instruction")


def read_rows(path: Path) -> list[Row]:
    """All rows of a file.

    Raises:
      UserError: no such file, unreadable, a line that is no object (each with its line), no row at all.
    """
    expected = "JSON Lines, or one JSON list, of objects; .gz or not"
    if not path.is_file():
        raise UserError("no such data file", got=path, expected=expected, remedy="check the path")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError("unreadable data file", got=f"{path.name}: {error}", expected=expected) from error
    rows: list[Row] = []
    for where, part in _parts(text):
        try:
            row = json.loads(part) if isinstance(part, str) else part
            if not isinstance(row, dict):
                raise ValueError(f"{type(row).__name__} instead of an object")
        except (ValueError, RecursionError) as error:
            raise UserError(
                "unreadable data file",
                got=f"{path.name}, {where}: {error}",
                expected="one JSON object a line",
            ) from error
        rows.append(row)
    if not rows:
        raise UserError("empty data file", got=path.name, expected="at least one row")
    return rows


def _parts(text: str) -> list[tuple[str, Any]]:
    """Entries of a JSON list, or lines that are not empty; each with its position."""
    if text.lstrip().startswith("["):
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            pass  # lines, of which the first begins with a bracket: it is reported as what it is
        else:
            return [(f"row {number}", entry) for number, entry in enumerate(entries, 1)]
    return [(f"line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def text_field(row: Row, keys: str | Sequence[str], where: str, *, optional: bool = False) -> str:
    """The text under the first of the keys that a row has; of an `optional` text nothing may be there.

    Raises:
      UserError: no such key, no text, or an empty one, named by `where`.
    """
    names = [keys] if isinstance(keys, str) else list(keys)
    key = next((name for name in names if name in row), None)
    value = None if key is None else row[key]
    if not isinstance(value, str) or not (optional or value.strip()):
        empty = f"{key} is {value!r:.60}" if isinstance(value, str) else f"{key} is {type(value).__name__}"
        raise UserError(
            where,
            got=f"fields {', '.join(sorted(row))}" if key is None else empty,
            expected=f"a field {' or '.join(f'`{name}`' for name in names)} with a text",
        )
    return sound(value)


def sound(text: str) -> str:
    """The text with `?` for lone surrogates, which JSON may hold and no file in UTF-8 can."""
    return text.encode("utf-8", "replace").decode("utf-8")


def data_name(path: Path) -> str:
    """A data file's name without its endings."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")
