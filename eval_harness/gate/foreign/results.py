"""What a reader gives: items with scores, and the settings in which two results must agree."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.stats.repeats import pass_metrics
from eval_harness.types import Score


@dataclass(frozen=True)
class ForeignItem:
    """One document as one model answered it; the fields of `ItemRecord`, but with the document's own id.

    The hashes are empty where a format has none. An item without `cluster` is one of its own.
    """

    task: str
    id: str
    metrics: dict[str, Any]
    prompt: str = ""
    prompt_hash: str = ""
    doc_hash: str = ""
    target: str = ""
    outputs: list[Any] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)
    cluster: str = ""


@dataclass(frozen=True)
class ForeignRun:
    """One model's result as another program wrote it, items in the order of the file.

    `asked` are the settings in which two results must agree, `versions` those of programs. `main` scores are
    what a comparison without a gates file may look at. `max_unjudged` as in `SuiteResult`.
    """

    format: str
    path: Path
    label: str
    items: list[ForeignItem]
    scores: tuple[Score, ...]
    asked: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    max_unjudged: float | None = None


def sha(value: Any) -> str:
    """sha256 of a JSON value, hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def as_score(value: Any) -> float | None:
    """A number or truth value as a finite float, else None."""
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    return None


def flat(values: Iterable[Any]) -> list[Any]:
    """Entries of all items: an item may hold a list of them."""
    return [entry for value in values for entry in (value if isinstance(value, list) else [value])]


def mean_score(task: str, metric: str, items: list[ForeignItem], **more: Any) -> Score:
    """The mean over the entries of one metric that have a value."""
    entries = [v for v in flat(item.metrics.get(metric) for item in items) if v is not None]
    return Score(task, metric, sum(entries) / len(entries) if entries else 0.0, None, len(items), **more)


def cluster_of(row: Mapping[str, Any], column: str | None, where: str) -> str:
    """What an item shares with others, by a column that the user names; empty without one.

    Raises:
      UserError: the item has no such column.
    """
    if column is None:
        return ""
    if column not in row:
        known = ", ".join(sorted(map(str, row))[:8]) or "none"
        raise UserError(f"--cluster: no such column in {where}", got=column, expected=f"one of {known}")
    return f"{column}:{sha(row[column])[:16]}"


def once(seen: set[Any], key: Any, path: Path, name: str) -> None:
    """Note an item. Raises UserError: it is there twice."""
    if key in seen:
        raise UserError(
            "an item is there twice",
            got=f"{path.name}: {name}",
            expected="every item once",
            remedy="write the file anew: of two answers none is the right one",
        )
    seen.add(key)


def metrics_of(name: str, scores: list[float]) -> dict[str, Any]:
    """Metrics of k samples of an item: all of them (mean@k), and pass@j where they are right or wrong."""
    if len(scores) == 1:
        return {f"{name},none": scores[0]}
    passed = {f"{name},pass@{k}": share for k, share in pass_metrics(scores).items()}
    return {f"{name},mean@{len(scores)}": list(scores)} | passed


def common_metrics(items: list[ForeignItem]) -> list[str]:
    """Metrics that every item has, in order."""
    return [m for m in items[0].metrics if all(m in item.metrics for item in items)]
