"""Run folders: result.json and items.jsonl, of this schema version and the ones before."""

import json
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.files.texts import json_text
from eval_harness.files.writing import write_text
from eval_harness.types import ASKED, SCHEMA_VERSION, ItemRecord, SuiteResult, parse, plain

RESULT, ITEMS = "result.json", "items.jsonl"
_GROUP = "group:"  # began a group's name in schema version 1


def write_run(folder: Path, result: SuiteResult, items: list[ItemRecord]) -> None:
    """Write items first, then the result that vouches for them."""
    text = "".join(json_text(plain(item)) + "\n" for item in items)
    write_text(folder / ITEMS, text)
    write_text(folder / RESULT, json_text(plain(result), indent=1) + "\n")


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a run's result."""
    return (folder / RESULT).is_file()


def read_result(folder: Path) -> SuiteResult:
    """Read a run's result. Raises UserError: none there, unreadable, an unknown schema version."""
    path = folder / RESULT
    if not path.is_file():
        raise UserError(
            "no finished run",
            got=folder,
            expected=f"a folder with {RESULT}",
            remedy="eval-harness run --model DIR --suites reasoning --out DIR",
        )
    try:
        return parse_result(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError("unreadable result", got=f"{path}: {error}") from error


def parse_result(data: Any) -> SuiteResult:
    """A result of its JSON object, of any schema version. Raises ValueError: unknown version or keys."""
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version == 1:
        return parse(SuiteResult, _from_version_1(data))
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema_version: got {version}, expected {SCHEMA_VERSION} or 1")
    return parse(SuiteResult, data)


def _from_version_1(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 marked main metrics by a scale, groups by their name, and kept the limit in the settings."""
    settings, scores = data.get("settings"), data.get("scores")
    if not isinstance(settings, dict) or not isinstance(scores, list):
        return data  # no result of any version: reading it says so
    asked = (*ASKED, *(name for name in ("win_rate",) if name in settings))
    changed = {"asked": asked, "max_unjudged": settings.get("max_unjudged"), "schema_version": SCHEMA_VERSION}
    return {**data, **changed, "scores": [_score_of_version_1(score) for score in scores]}


def _score_of_version_1(score: Any) -> Any:
    if not isinstance(score, dict) or not isinstance(score.get("task"), str):
        return score
    task, main = score["task"], score.get("normalised") is not None
    return {**score, "task": task.removeprefix(_GROUP), "is_group": task.startswith(_GROUP), "main": main}


def read_items(folder: Path) -> list[ItemRecord]:
    """Read a run's per-item records, in task and document order. Raises UserError: none, unreadable."""
    path = folder / ITEMS
    if not path.is_file():
        raise UserError("no per-item records", got=folder, expected=f"a folder with {ITEMS}")
    items = []
    with path.open(encoding="utf-8") as handle:
        try:
            for line in handle:
                items.append(parse(ItemRecord, json.loads(line)))
        except ValueError as error:
            raise UserError(
                "unreadable per-item records",
                got=f"{path}, line {len(items) + 1}: {error}",
                expected="one item a line",
                remedy="copy the run folder again, or run again with --overwrite",
            ) from error
    return items
