"""Two halves of the data, so that no model scores a pair that it was trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import write_text
from sparsepo_plugin.weigh.pairs_file import Row, read

NAMES = ("first.jsonl", "second.jsonl")


def half_of(row: Row, prompt_key: str | None) -> int:
    """0 or 1, by the prompt alone, so that pairs of one prompt stay together; without one, by the pair."""
    told = row.get(prompt_key) if prompt_key else None
    key = json.dumps(row if told is None else told, sort_keys=True)
    return hashlib.sha256(key.encode()).digest()[0] % 2


def write_halves(data: Path, folder: Path, prompt_key: str | None) -> None:
    """Write the two halves to train on.

    Raises:
      UserError: a half is empty.
    """
    rows = read(data)
    for number, name in enumerate(NAMES):
        half = [row for row in rows if half_of(row, prompt_key) == number]
        if not half:
            raise UserError(f"--data {data}: got one prompt only, expected several, to be split in halves")
        write_text(folder / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in half))
        print(f"{folder / name}: {len(half)} pairs")
    print("train a model on each, then: sparsepo weigh --model FIRST SECOND")
