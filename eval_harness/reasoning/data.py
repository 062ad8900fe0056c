"""Local data instead of the hub: a mapping file names, per task and split, the rows a shipped task reads.

    version: 1
    root: data                      # optional, relative to this file
    tasks:
      gsm8k: {train: gsm8k_train.jsonl.gz, test: gsm8k_test.jsonl.gz}
      "mmlu_*":                     # {1} below is what the star matched
        test: {file: mmlu_test.jsonl.gz, where: {subject: "{1}"}}
        dev:  {file: mmlu_dev.jsonl.gz,  where: {subject: "{1}"}, standin: true}

An entry is a file or a mapping with `file` and any of: `convert` (a row converter), `where` (keep rows with
these values), `skip` and `take` (slice), `standin` (few-shot rows that are not the benchmark's own: scores
made with them are marked not comparable).
"""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError, near
from eval_harness.files.rows import Row, read_rows
from eval_harness.files.writing import write_text
from eval_harness.reasoning.converters import get_converter

_ENTRY_KEYS = {"file", "convert", "where", "skip", "take", "standin"}


@dataclass(frozen=True)
class SplitSource:
    """Where one split's rows come from; fields as in the module's docstring."""

    file: Path
    convert: str | None = None
    where: tuple[tuple[str, Any], ...] = ()
    skip: int = 0
    take: int | None = None
    standin: bool = False


@dataclass(frozen=True)
class DataMapping:
    """A parsed mapping file: (task pattern, split -> source) in file order; the first that fits wins."""

    path: Path
    entries: tuple[tuple[str, dict[str, SplitSource]], ...]

    def splits(self, task: str) -> dict[str, SplitSource] | None:
        """Sources of a task's splits, None where the mapping does not name the task."""
        for pattern, splits in self.entries:
            regex = "(.*)".join(re.escape(part) for part in pattern.split("*"))
            if match := re.fullmatch(regex, task):
                return {name: _fill(source, match.groups()) for name, source in splits.items()}
        return None


def load_mapping(path: Path) -> DataMapping:
    """Read a mapping file. Raises UserError: missing file, bad YAML, unknown key, wrong version."""
    import yaml

    if not path.is_file():
        raise UserError("no such data mapping", got=path, expected="a YAML file", remedy="check --data")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError("data mapping is not valid YAML", got=f"{path.name}: {error}") from error
    if not isinstance(raw, dict) or raw.get("version") != 1 or not isinstance(raw.get("tasks"), dict):
        raise UserError(
            "data mapping", got=path.name, expected="keys version: 1, tasks: {...}, optional root"
        )
    if unknown := sorted(set(raw) - {"version", "root", "tasks"}):
        raise UserError("data mapping: unknown key", got=unknown[0], expected="version, root, tasks")
    root = (path.resolve().parent / str(raw.get("root", "."))).resolve()
    entries = [
        (task, {s: _source(e, root, f"{task}.{s}") for s, e in v.items()}) for task, v in raw["tasks"].items()
    ]
    return DataMapping(path, tuple(entries))


def _source(entry: object, root: Path, where: str) -> SplitSource:
    raw = {"file": entry} if isinstance(entry, str) else entry
    if not isinstance(raw, dict) or "file" not in raw:
        raise UserError(f"data mapping, {where}", got=entry, expected="a file name or {file: ...}")
    if unknown := sorted(set(raw) - _ENTRY_KEYS):
        raise UserError(
            f"data mapping, {where}: unknown key",
            got=unknown[0],
            expected=near(unknown[0], sorted(_ENTRY_KEYS)),
        )
    if raw.get("convert"):
        get_converter(raw["convert"])
    filters = tuple((raw.get("where") or {}).items())
    return SplitSource(
        root / raw["file"],
        raw.get("convert"),
        filters,
        raw.get("skip", 0),
        raw.get("take"),
        bool(raw.get("standin", False)),
    )


def _fill(source: SplitSource, groups: tuple[str, ...]) -> SplitSource:
    def sub(value: object) -> Any:
        if not isinstance(value, str):
            return value
        for i, group in enumerate(groups):
            value = value.replace(f"{{{i + 1}}}", group)
        return value

    filters = tuple((column, sub(value)) for column, value in source.where)
    return SplitSource(
        Path(sub(str(source.file))), source.convert, filters, source.skip, source.take, source.standin
    )


@lru_cache(maxsize=4)
def _rows(path: Path, _mtime: int) -> tuple[Row, ...]:
    """Rows of one state of a file: MMLU's 57 tasks filter the same two files."""
    return tuple(read_rows(path))


def select_rows(source: SplitSource) -> list[Row]:
    """Rows after filter, slice and conversion, in order. Raises UserError: wrong columns, nothing left."""
    stamp = source.file.stat().st_mtime_ns if source.file.is_file() else 0
    rows = _rows(source.file, stamp)
    for column, _ in source.where:
        if rows and column not in rows[0]:
            raise UserError("wrong columns", got=f"{source.file.name}: {sorted(rows[0])}", expected=column)
    kept = [r for r in rows if all(isinstance(r, dict) and r.get(c) == v for c, v in source.where)]
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
            expected=f"the layout of converter {source.convert}",
        ) from error


def prepare_split(source: SplitSource, columns: tuple[str, ...], task: str, folder: Path) -> Path:
    """Check a split's rows and write them under `folder`, named by their content.

    Raises:
      UserError: empty, unreadable, or a row without one of `columns`.
    """
    rows = select_rows(source)
    for number, row in enumerate(rows, start=1):
        if missing := [c for c in columns if not isinstance(row, dict) or c not in row]:
            raise UserError(
                f"wrong columns for {task}",
                got=f"{source.file.name}, row {number}: {sorted(row)}",
                expected=f"{list(columns)}, missing {missing}",
                remedy="rename the columns or name a row converter",
            )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    target = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.jsonl"
    if not target.is_file():
        write_text(target, text)
    return target
