"""Rows of results: appended to a CSV as they come, each with what made it."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import functools
import io
import platform
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from sparsepo_plugin.files import write_text

Row = dict[str, str]


@functools.cache
def provenance() -> Row:
    """Commit (with + where the tree had changes outside docs/), versions and machine of this process."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)docs")
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
    """A CSV file that grows: rows are found again by their key columns. Several processes may share one.

    Args:
      path: the file; made with the first row.
      key: columns that name a unit of work, which may have several rows.
    """

    def __init__(self, path: Path, key: Iterable[str]) -> None:
        self.path, self.key = path, tuple(key)
        self._since = time.monotonic()

    @property
    def rows(self) -> list[Row]:
        """The rows as they are on disk now."""
        return read(self.path)

    def _name(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(show(row[column]) for column in self.key)

    def has(self, **key: Any) -> bool:
        """Whether the unit of work is done; the clock of the next one starts."""
        self._since = time.monotonic()
        return self._name(key) in {self._name(row) for row in self.rows}

    def add(self, found: Iterable[Mapping[str, Any]]) -> None:
        """Add all rows of one unit of work at once, so that a kill leaves all of them or none."""
        seconds = f"{time.monotonic() - self._since:.1f}"
        made = [{name: show(value) for name, value in values.items()} for values in found]
        with self._alone():
            rows = [*self.rows, *({**row, "seconds": seconds, **provenance()} for row in made)]
            last = ("seconds", *provenance())
            names = [name for name in dict.fromkeys(n for row in rows for n in row) if name not in last]
            write(self.path, rows, [*names, *last])

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the file's lock: reading, adding and replacing are one act."""
        place = (
            Path(tempfile.gettempdir()) / f"study-{zlib.crc32(str(self.path.resolve()).encode()):08x}.lock"
        )
        with open(place, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def write(path: Path, rows: Iterable[Row], names: Sequence[str]) -> None:
    """Replace a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


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
