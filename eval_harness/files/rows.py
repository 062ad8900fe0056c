"""Rows of data: objects of a JSON list or of JSON Lines, gzipped or not, or rows of a Parquet file."""

import gzip
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError, first_line

Row = dict[str, Any]
PROMPT_KEYS = ("prompt", "instruction")
# What reading one raises, besides text that is no JSON.
UNREADABLE = (OSError, EOFError, UnicodeDecodeError, zlib.error)
_SHARE = 8  # of the memory: two results with their reports take up to five and a half times a file's size


def read_rows(path: Path) -> list[Row]:
    """All rows of a file.

    Raises:
      UserError: no such file, unreadable, a line that is no object (each with its line), no row at all.
    """
    expected = "JSON Lines, or one JSON list, of objects, .gz or not; or .parquet"
    if not path.is_file():
        raise UserError("no such data file", got=path, expected=expected, remedy="check the path")
    if path.suffix == ".parquet":
        return _parquet(path, expected)
    try:
        text = whole_text(path)
    except UNREADABLE as error:
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


def whole_text(path: Path) -> str:
    """The text of a file, unpacked where it ends in .gz.

    Raises:
      UserError: larger than this machine can work on; nothing of it is read, or no more than that of a .gz.
      OSError, EOFError, UnicodeDecodeError, zlib.error: `UNREADABLE`.
    """
    most = _largest()
    check_size(path, path.stat().st_size, most)
    if path.suffix != ".gz":
        return path.read_bytes().decode("utf-8-sig")  # Windows programs put a mark first
    with gzip.open(path) as stream:
        raw = stream.read(most + 1)
    check_size(path, len(raw), most)
    return raw.decode("utf-8-sig")


def check_size(path: Path, size: int, most: int | None = None) -> None:
    """Raise UserError where a file holds more bytes than this machine can work on."""
    most = _largest() if most is None else most
    if size > most:
        raise UserError(
            f"{path.name} is too large",
            got=f"{'more than ' * (path.suffix == '.gz')}{size} bytes",
            expected=f"at most {most}, an eighth of this machine's memory",
            remedy="compare fewer tasks at a time, or use a larger machine",
        )


def _largest() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _SHARE


def _parquet(path: Path, expected: str) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
        json.dumps(rows)  # what becomes of them is JSON: no times, no bytes
    except (pa.ArrowException, OSError, TypeError) as error:
        raise UserError(
            "unreadable data file", got=f"{path.name}: {first_line(error)}", expected=expected
        ) from error
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
