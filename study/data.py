"""Read the study's data from a folder that the user names; nothing of it is kept in the repository."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_plugin.errors import UserError

POSITIVE = ("pos", "positive", "1")


class Review(NamedTuple):
    """A labelled review or sentence."""

    text: str
    positive: bool


class Pair(NamedTuple):
    """A preference pair; responses start with their space."""

    prompt: str
    chosen: str
    rejected: str


def read_lines(root: Path, name: str) -> list[dict[str, Any]]:
    """Rows of ``name``.jsonl.gz (or .jsonl) below the data folder.

    Raises:
      UserError: there is no such file.
    """
    for path in (root / f"{name}.jsonl.gz", root / f"{name}.jsonl"):
        if path.is_file():
            opener = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rt", encoding="utf-8") as file:
                return [json.loads(line) for line in file if line.strip()]
    raise UserError(
        f"{root / name}.jsonl.gz: no such file; expected the study's data, see docs/study.md; "
        "name their folder with DATA=... (make) or --data"
    )


def reviews(root: Path, name: str) -> list[Review]:
    """Labelled texts of a file with ``text`` and ``label``."""
    return [Review(row["text"], str(row["label"]) in POSITIVE) for row in read_lines(root, name)]


def pairs(root: Path, name: str) -> list[Pair]:
    """Preference pairs of a file; a response that does not begin with white space gets a space."""
    rows = read_lines(root, name)
    return [Pair(row["prompt"], _spaced(row["chosen"]), _spaced(row["rejected"])) for row in rows]


def _spaced(text: str) -> str:
    return text if text[:1].isspace() else " " + text
