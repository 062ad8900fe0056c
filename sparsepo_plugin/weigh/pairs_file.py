"""JSON lines of preference pairs; what is written grows beside its place and is put there when whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import write_text

Row = dict[str, Any]


def read(path: Path, flag: str = "--data") -> list[Row]:
    """Read all rows.

    Raises:
      UserError: no such file, none of ours, or a line that is no JSON object; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"{flag} {path}: cannot be read ({reason}); expected JSON lines") from None
    rows = []
    # Not splitlines: U+2028 and its like may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{flag} {path}: line {number} is no JSON object, expected a pair a line")
        rows.append(row)
    if not rows:
        raise UserError(f"{flag} {path}: got no pairs, expected JSON lines")
    return rows


class Growing:
    """A file under way: one line per finished row, and a first line that says what it is made of.

    Args:
      path: where it goes when it is whole.
      identity: of everything that its rows depend on.

    Attributes:
      done: rows finished by an earlier run that was stopped.
    """

    def __init__(self, path: Path, identity: Any) -> None:
        self._path, self._part = path, path.with_name(f".{path.name}.part")
        self._head = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.done: list[Row] = []

    @contextlib.contextmanager
    def open(self) -> Iterator[Growing]:
        """Within the context nobody else writes it; at its end, without an error, it is put in its place.

        Raises:
          UserError: another run writes it, or it cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{self._part}.lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"--out {self._path}: another run writes it; wait for it, or choose another"
            ) from None
        except OSError as error:
            raise UserError(f"--out {self._path}: cannot be written ({error.strerror})") from None
        try:
            self._resume()
            with self._part.open("a", encoding="utf-8") as self._file:
                yield self
            self._finish()
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def add(self, rows: list[Row]) -> None:
        """Write finished rows, so that they outlive a killed run."""
        self._file.write("".join(_line(row) for row in rows))
        self._file.flush()
        self.done += rows

    def _resume(self) -> None:
        lines = self._part.read_bytes().split(b"\n") if self._part.is_file() else []
        # What follows the last line end was being written when the run was stopped.
        whole = [line.decode("utf-8") for line in lines[:-1]]
        if whole[:1] == [self._head]:
            self.done = [json.loads(line) for line in whole[1:]]
        self._part.write_text("".join([f"{self._head}\n", *map(_line, self.done)]), encoding="utf-8")

    def _finish(self) -> None:
        write_text(self._path, "".join(map(_line, self.done)))
        self._part.unlink()


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
