"""Rows of results: appended to a CSV as they come, each with what made it."""

from __future__ import annotations

import csv
import functools
import io
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from sparsepo_plugin.checkpoint import write_text

Row = dict[str, str]


@functools.cache
def provenance() -> Row:
    """Commit (with + where the tree had changes), versions and machine of this process."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": (git("rev-parse", "--short=12", "HEAD") or "none") + ("+" if changed else ""),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": f"cpu {platform.machine()}, {torch.get_num_threads()} thread",
    }


def show(value: Any) -> str:
    """A value as it stands in the CSV: numbers with six digits."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class Table:
    """A CSV file that grows: rows are found again by their key columns.

    Args:
      path: the file; made with the first row.
      key: columns that name a unit of work, which may have several rows.
    """

    def __init__(self, path: Path, key: Iterable[str]) -> None:
        self.path, self.key, self.rows = path, tuple(key), read(path)
        self._done = {self._name(row) for row in self.rows}
        self._since = time.monotonic()

    def _name(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(show(row[column]) for column in self.key)

    def has(self, **key: Any) -> bool:
        """Whether the unit of work is done; the clock of the next one starts."""
        self._since = time.monotonic()
        return self._name(key) in self._done

    def add(self, found: Iterable[Mapping[str, Any]]) -> None:
        """Add all rows of one unit of work at once, so that a kill leaves all of them or none."""
        seconds = f"{time.monotonic() - self._since:.1f}"
        for values in found:
            row = {name: show(value) for name, value in values.items()}
            self.rows.append({**row, "seconds": seconds, **provenance()})
            self._done.add(self._name(row))
        last = ("seconds", *provenance())
        names = [name for name in dict.fromkeys(n for row in self.rows for n in row) if name not in last]
        text = io.StringIO()
        writer = csv.DictWriter(text, [*names, *last], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


def read(path: Path) -> list[Row]:
    """Rows of a CSV; none where there is no file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(row: Mapping[str, str], column: str) -> float | None:
    """A number of a row; None where it is missing or not a number."""
    text = row.get(column, "")
    return None if text in ("", "nan", None) else float(text)
