"""Answers on disk, the moment a batch is finished: what makes a killed run continue.

lm-eval's own cache is keyed by the request alone, so two models sharing a path share answers (upstream issues
2715 and 4063). Here every key starts from the model's content (`settings.namespace`).
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eval_harness.files.texts import sound_json

_CHUNK = 500  # sqlite's limit on variables in one statement is 999 in old builds


def entry_key(namespace: str, task: str, version: str, kind: str, args: Sequence[Any]) -> str:
    """Key of one answer: model, settings, task, version, request type, prompt, generation settings."""
    text = json.dumps([namespace, task, version, kind, list(args)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


class AnswerStore:
    """A sqlite file of key -> JSON value; a `write` is one transaction: in it whole or not at all.

    Safe against kill -9 and against several processes writing at once. (WAL with synchronous=NORMAL: a power
    cut may lose the last batches, never corrupt the file.)
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=120, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL)")

    def read(self, keys: Iterable[str]) -> dict[str, Any]:
        """Values of those keys that are there; lone surrogates in texts, which no file can hold, are `?`."""
        wanted = list(keys)
        held: dict[str, Any] = {}
        for start in range(0, len(wanted), _CHUNK):
            part = wanted[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", part)
            held.update((key, sound_json(json.loads(value))) for key, value in rows)
        return held

    def forget(self, keys: Iterable[str]) -> None:
        """Remove answers, so that others can take their places."""
        self._db.executemany("DELETE FROM answers WHERE key = ?", [(key,) for key in keys])

    def write(self, answers: dict[str, Any]) -> None:
        """Store a batch in one transaction; a key already there keeps its first value.

        Raises:
          ValueError: a value holds NaN or infinity.
        """
        if not answers:
            return
        rows = [(key, json.dumps(value, allow_nan=False)) for key, value in answers.items()]
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def __len__(self) -> int:
        """Number of stored answers."""
        return int(self._db.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()
