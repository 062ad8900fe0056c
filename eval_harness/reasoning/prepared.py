"""Local rows as the files that lm-eval's tasks load: checked, sliced, converted, and texts left texts.

`datasets` reads JSON with pyarrow, which takes every string that looks like an ISO 8601 date for a timestamp:
an answer "2024-01-02" would be graded as "2024-01-02 00:00:00". Tasks with such texts get Parquet files that
name their types.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError, first_line
from eval_harness.files.rows import Row, read_rows
from eval_harness.files.writing import write_text
from eval_harness.reasoning.converters import converter_for, described, get_converter
from eval_harness.reasoning.data import SplitSource

_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:?\d\d(:?\d\d(\.\d+)?)?)?(Z|[+-]\d\d:?\d\d)?)?")


@lru_cache(maxsize=4)
def _rows(path: Path, _mtime: int) -> tuple[Row, ...]:
    """Rows of one state of a file: MMLU's 57 tasks filter the same two files."""
    return tuple(read_rows(path))


def select_rows(source: SplitSource) -> list[Row]:
    """Rows after filter, slice and conversion, in order. Raises UserError: wrong columns, nothing left."""
    stamp = source.file.stat().st_mtime_ns if source.file.is_file() else 0
    rows = _rows(source.file, stamp)
    for column in source.where:
        if rows and column not in rows[0]:
            raise UserError("wrong columns", got=f"{source.file.name}: {sorted(rows[0])}", expected=column)
    kept = [r for r in rows if all(isinstance(r, dict) and r.get(c) == v for c, v in source.where.items())]
    end = None if source.take is None else source.skip + source.take
    kept = kept[source.skip : end]
    if not kept:
        raise UserError(
            "empty data",
            got=f"{source.file.name}: {len(rows)} rows, none selected",
            expected="at least one row",
            remedy="check file, where, skip and take",
        )
    if source.convert is None:
        return kept
    try:
        return [get_converter(source.convert)(row) for row in kept]
    except (KeyError, TypeError) as error:
        raise UserError(
            "wrong columns",
            got=f"{source.file.name}: {sorted(kept[0])}, {error!r}",
            expected=f"the layout of converter {source.convert}: {described(source.convert)}",
        ) from error


def prepare_splits(
    splits: Mapping[str, SplitSource], columns: tuple[str, ...], task: str, folder: Path
) -> dict[str, Path]:
    """Check a task's rows and write them under `folder`, named by their content: split -> file.

    All files of a task are of one kind, .jsonl or .parquet.

    Raises:
      UserError: empty, unreadable, a row without one of `columns`, a text that no file can hold.
    """
    rows = {split: _checked(source, columns, f"{task}, split {split}") for split, source in splits.items()}
    if any(_DATE.fullmatch(text) for of_split in rows.values() for text in _texts(of_split)):
        return {split: _parquet(of_split, rows, task, folder) for split, of_split in rows.items()}
    return {split: _json_lines(of_split, folder) for split, of_split in rows.items()}


def _checked(source: SplitSource, columns: tuple[str, ...], task: str) -> list[Row]:
    rows = select_rows(source)
    for number, row in enumerate(rows, start=1):
        where = f"{source.file.name}, row {number}"
        if missing := [c for c in columns if not isinstance(row, dict) or c not in row]:
            raise UserError(
                f"wrong columns for {task}",
                got=f"{where}: {sorted(row)}",
                expected=f"{list(columns)}, missing {missing}",
                remedy=f"rename the columns, or {converter_for(row, columns)}",
            )
        if any("\ud800" <= sign <= "\udfff" for text in _texts(row) for sign in text):
            raise UserError(
                f"a text that is none in {task}",
                got=f"{where}: half of a surrogate pair",
                expected="Unicode texts",
                remedy="write the file again from its source",
            )
    return rows


def _texts(value: Any) -> Iterator[str]:
    """All texts inside, names of columns included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from (key, *_texts(entry))
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)


def _lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _target(text: str, folder: Path, ending: str) -> Path:
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.{ending}"


def _json_lines(rows: list[Row], folder: Path) -> Path:
    text = _lines(rows)
    target = _target(text, folder, "jsonl")
    if not target.is_file():
        write_text(target, text)
    return target


def _parquet(rows: list[Row], splits: dict[str, list[Row]], task: str, folder: Path) -> Path:
    """The rows with the types of all splits together."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # The schema is part of the content: another split may have added a column.
    target = _target("\0".join([_lines(rows), *map(_lines, splits.values())]), folder, "parquet")
    if target.is_file():
        return target
    try:
        schema = pa.unify_schemas(
            [pa.Table.from_pylist(of_split).schema for of_split in splits.values()],
            promote_options="permissive",
        )
        table = pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowException, OverflowError) as error:
        raise UserError(
            f"the columns of {task} hold values of several types",
            got=first_line(error),
            expected="one type a column",
            remedy="make every value of the column a text",
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        pq.write_table(table, draft)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return target
