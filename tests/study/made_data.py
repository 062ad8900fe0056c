"""Data of the study's layout, made by the test: words that please and words that do not."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

GOOD = ("wonderful", "great", "lovely", "brilliant", "charming")
BAD = ("awful", "boring", "terrible", "dreadful", "weak")
PLAIN = ("the", "film", "story", "and", "actor", "scene", "is", "was", "a", "with", "music", "of", "long")


def sentence(source: random.Random, words: tuple[str, ...], length: int) -> str:
    return " ".join(source.choice(words if source.random() < 0.3 else PLAIN) for _ in range(length)) + "."


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def labelled(source: random.Random, count: int, length: int) -> list[dict[str, object]]:
    sides = ((GOOD, "pos"), (BAD, "neg"))
    return [
        {"text": sentence(source, sides[n % 2][0], length), "label": sides[n % 2][1]} for n in range(count)
    ]


def pairs(source: random.Random, count: int, mark: str) -> list[dict[str, object]]:
    return [
        {
            "prompt": f"{sentence(source, PLAIN, 12)} {n}{mark}",
            "chosen": " " + sentence(source, GOOD, 8),
            "rejected": sentence(source, BAD, 8),  # a space is missing: the study adds it
        }
        for n in range(count)
    ]


def make(root: Path) -> Path:
    source = random.Random(0)
    write(root / "text/imdb_train.jsonl.gz", labelled(source, 80, 40))
    write(root / "text/imdb_valid.jsonl.gz", labelled(source, 60, 40))
    write(root / "text/rt_polarity.jsonl.gz", labelled(source, 120, 15))
    for name in ("hh_helpful", "hh_harmless_filtered"):
        write(root / f"preference/{name}_train.jsonl.gz", pairs(source, 20, "\n\nAssistant:"))
        write(root / f"preference/{name}_test.jsonl.gz", pairs(source, 12, "\n\nAssistant:"))
    write(root / "preference/tldr_odpo_train.jsonl.gz", pairs(source, 40, "\n\nTL;DR:"))
    write(root / "preference/tldr_odpo_test.jsonl.gz", pairs(source, 24, "\n\nTL;DR:"))
    return root
