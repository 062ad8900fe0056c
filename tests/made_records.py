"""Token records made of seeded random numbers."""

from __future__ import annotations

import json
import random
from pathlib import Path

WORDS = (" the", " of", " river", " bright", " slow", ",", ".", " and", " it", " answered", " never", " word")


def response(pair: int, side: str, rng: random.Random, length: int, **changed) -> dict:
    """One line of a record; about a third of the mask values are exactly 0."""
    places = [rng.randrange(len(WORDS)) for _ in range(length - 1)]
    masks = [0.0 if rng.random() < 0.35 else rng.random() * 2 for _ in range(length)]
    row = {
        "schema_version": 1,
        "step": 40,
        "pair": pair,
        "side": side,
        "prompt": f"question {pair}: what is it?",
        "tokens": [WORDS[place] for place in places] + ["<eos>"],
        "token_ids": [10 + place for place in places] + [2],
        "joined": [],
        "reward_mask": masks,
        "kl_mask": [mask / 2 for mask in masks],
        "log_ratio": [rng.gauss(0.1 if side == "chosen" else -0.1, 0.5) for _ in range(length)],
        "token_kl": [rng.expovariate(8) for _ in range(length)],
    }
    return {**row, **changed}


def rows(pairs: int, length: int = 12, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    return [response(pair, side, rng, length) for pair in range(pairs) for side in ("chosen", "rejected")]


def write(path: Path, lines: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
