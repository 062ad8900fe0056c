"""Plain JSON Lines: `id` and `score`; also `task`, `repeat`, `cluster`, `prompt`, `target`, `output`."""

from pathlib import Path
from typing import Any

from eval_harness.errors import UserError, near
from eval_harness.files.rows import Row, read_rows
from eval_harness.gate.foreign.results import (
    ForeignItem,
    ForeignRun,
    cluster_of,
    common_metrics,
    mean_score,
    metrics_of,
    once,
    sha,
)
from eval_harness.types import Score

NAME = "jsonl"
_NEEDED = ("id", "score")
_KNOWN = (*_NEEDED, "task", "repeat", "cluster", "prompt", "prompt_hash", "target", "output")
TASK = "items"  # of rows that name none


def is_mine(path: Path, head: Any) -> bool:
    """Rows with an id and a score."""
    return isinstance(head, dict) and set(_NEEDED) <= set(head)


def read(path: Path, cluster: str | None) -> ForeignRun:
    """Read rows; several of one id are its repeats, numbered by `repeat`.

    Raises:
      UserError: an unknown or missing key, a score outside [0, 1], a row that is there twice.
    """
    groups: dict[tuple[str, str], dict[int, Row]] = {}
    seen: set[Any] = set()
    for number, row in enumerate(read_rows(path), 1):
        task, name, repeat = _checked(row, f"{path.name}, row {number}")
        once(seen, (task, name, repeat), path, f"{name}, repeat {repeat}" if "repeat" in row else name)
        groups.setdefault((task, name), {})[repeat] = row
    counts = {len(rows) for rows in groups.values()}
    items = [_item(task, name, rows, cluster, path, counts) for (task, name), rows in groups.items()]
    return ForeignRun(NAME, path, path.name, items, _scores(items))


def _checked(row: Row, where: str) -> tuple[str, str, int]:
    if unknown := [key for key in row if key not in _KNOWN]:
        raise UserError(f"{where}: unknown field", got=unknown[0], expected=near(unknown[0], _KNOWN))
    if missing := [key for key in _NEEDED if key not in row]:
        raise UserError(f"{where}: missing field", got=", ".join(row), expected=missing[0])
    if not isinstance(row["id"], str | int) or isinstance(row["id"], bool):
        raise UserError(f"{where}: id", got=row["id"], expected="a text or an integer")
    score = row["score"]
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise UserError(f"{where}: score", got=score, expected="a number in [0, 1], larger is better")
    repeat = row.get("repeat", 1)
    if not isinstance(repeat, int) or isinstance(repeat, bool):
        raise UserError(f"{where}: repeat", got=repeat, expected="an integer")
    return str(row.get("task", TASK)), str(row["id"]), repeat


def _item(
    task: str, name: str, rows: dict[int, Row], cluster: str | None, path: Path, counts: set[int]
) -> ForeignItem:
    first, numbers = rows[min(rows)], sorted(rows)
    if len(counts) > 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise UserError(
            f"repeats are missing in {path.name}",
            got=f"{name}: repeats {', '.join(map(str, numbers))}",
            expected=f"{max(counts)} of every item, numbered without a gap",
        )
    for key in ("cluster", "prompt", "prompt_hash", "target"):
        if any(row.get(key) != first.get(key) for row in rows.values()):
            raise UserError(f"{path.name}: repeats of {name} differ", got=key, expected="one for all repeats")
    scores = [float(rows[number]["score"]) for number in numbers]
    prompt = first.get("prompt", "")
    return ForeignItem(
        task,
        name,
        metrics_of("score", scores),
        prompt=str(prompt),
        prompt_hash=str(first.get("prompt_hash") or (sha(prompt) if prompt else "")),
        target=str(first.get("target", "")),
        outputs=[rows[number]["output"] for number in numbers if "output" in rows[number]],
        cluster=cluster_of(first, cluster or ("cluster" if "cluster" in first else None), path.name),
    )


def _scores(items: list[ForeignItem]) -> tuple[Score, ...]:
    tasks: dict[str, list[ForeignItem]] = {}
    for item in items:
        tasks.setdefault(item.task, []).append(item)
    return tuple(
        mean_score(task, metric, of_task, main="pass@" not in metric)
        for task, of_task in tasks.items()
        for metric in common_metrics(of_task)
    )
