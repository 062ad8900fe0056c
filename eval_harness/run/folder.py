"""Run folders: every file appears whole or not at all."""

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.types import ItemRecord, SuiteResult

RESULT, ITEMS = "result.json", "items.jsonl"


def write_text(path: Path, text: str) -> None:
    """Write atomically: a temporary file in the same folder, flushed to disk, then renamed.

    Raises:
      UserError: the disk is full; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise UserError(
                "no disk space",
                got=f"0 bytes free at {path.parent}",
                expected=f"{len(text)} bytes",
                remedy="free space or choose another --out and --cache",
            ) from error
        raise
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def check_space(folder: Path, needed: int) -> None:
    """Raise UserError unless the disk that holds `folder` has `needed` bytes free."""
    probe = folder.resolve()
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free
    if free < needed:
        raise UserError(
            "no disk space",
            got=f"{free} bytes free at {probe}",
            expected=f"at least {needed} bytes",
            remedy="free space or choose another --out and --cache",
        )


def write_run(folder: Path, result: SuiteResult, items: list[ItemRecord]) -> None:
    """Write items first, then the result that vouches for them."""
    lines = (json.dumps(item.to_json(), ensure_ascii=False) for item in items)
    write_text(folder / ITEMS, "".join(line + "\n" for line in lines))
    write_text(folder / RESULT, json.dumps(result.to_json(), indent=1, ensure_ascii=False) + "\n")


def read_result(folder: Path) -> SuiteResult:
    """Read a run's result. Raises UserError: none there, unreadable, another schema version."""
    path = folder / RESULT
    if not path.is_file():
        raise UserError(
            "no finished run",
            got=folder,
            expected=f"a folder with {RESULT}",
            remedy="eval-harness run --model DIR --suites reasoning --out DIR",
        )
    try:
        return SuiteResult.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError("unreadable result", got=f"{path}: {error}") from error


def read_items(folder: Path) -> list[ItemRecord]:
    """Read a run's per-item records, in task and document order. Raises UserError: none, unreadable."""
    path = folder / ITEMS
    if not path.is_file():
        raise UserError("no per-item records", got=folder, expected=f"a folder with {ITEMS}")
    items = []
    with path.open(encoding="utf-8") as handle:
        try:
            for line in handle:
                items.append(ItemRecord.from_json(json.loads(line)))
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                "unreadable per-item records",
                got=f"{path}, line {len(items) + 1}: {error}",
                expected="one item a line",
                remedy="copy the run folder again, or run again with --overwrite",
            ) from error
    return items


def plain(value: Any) -> Any:
    """Reduce numpy scalars, tuples and other non-JSON values to JSON's own types."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return plain(value.item()) if hasattr(value, "item") else str(value)
