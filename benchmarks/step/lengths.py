"""Take the token lengths of preference pairs from data files, so that the benchmark needs no data.

    python -m benchmarks.step.lengths --out benchmarks/step/lengths tldr=FILE.jsonl.gz hh=FILE.jsonl.gz

One byte-level BPE tokenizer of 32,000 entries is trained on the texts of all files together; then a seeded
sample of pairs of each file is measured. NAME.json holds numbers alone: [prompt, chosen, rejected] tokens per
pair, not truncated. As in OpenRLHF's dataset, prompt and response are tokenised together, and a response ends
in an end-of-text token that is counted.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer

VOCABULARY = 32_000
Pair = dict[str, str]


def read(path: Path) -> list[Pair]:
    """Pairs of a gzipped JSON Lines file with the keys prompt, chosen and rejected."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def texts(pairs: list[Pair]) -> Iterator[str]:
    """Every distinct text once, so that a prompt with many pairs does not own the vocabulary."""
    seen = dict.fromkeys(pair[key] for pair in pairs for key in ("prompt", "chosen", "rejected"))
    return iter(seen)


def measure(pairs: list[Pair], tokenizer: ByteLevelBPETokenizer, count: int, seed: int) -> list[list[int]]:
    """[prompt, chosen, rejected] tokens of ``count`` pairs drawn without replacement."""

    def size(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    found = []
    for pair in random.Random(seed).sample(pairs, min(count, len(pairs))):
        prompt = size(pair["prompt"])
        responses = (size(pair["prompt"] + pair[key]) - prompt + 1 for key in ("chosen", "rejected"))
        found.append([prompt, *responses])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="NAME=FILE", help="what to call it, and where it is")
    parser.add_argument("--out", type=Path, required=True, help="folder for NAME.json")
    parser.add_argument("--count", type=int, default=400, help="pairs to sample per file")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    files = {name: Path(path) for name, _, path in (entry.partition("=") for entry in arguments.files)}
    data = {name: read(path) for name, path in files.items()}
    tokenizer = ByteLevelBPETokenizer()
    every = [text for pairs in data.values() for text in texts(pairs)]
    tokenizer.train_from_iterator(every, vocab_size=VOCABULARY, show_progress=False)
    for name, pairs in data.items():
        triples = measure(pairs, tokenizer, arguments.count, arguments.seed)
        told = {
            "file": files[name].name, "pairs_in_file": len(pairs), "seed": arguments.seed,
            "tokenizer": f"byte-level BPE, {tokenizer.get_vocab_size()} entries, trained on the files",
            "columns": ["prompt", "chosen", "rejected"],
        }  # fmt: skip
        lines = ",\n".join(json.dumps(triple) for triple in triples)
        text = json.dumps(told, indent=1)[:-2] + f',\n "tokens": [\n{lines}\n ]\n}}\n'
        (arguments.out / f"{name}.json").write_text(text)
        medians = [sorted(column)[len(column) // 2] for column in zip(*triples)]
        print(f"{name}: {len(triples)} pairs, median prompt, chosen, rejected {medians}")


if __name__ == "__main__":
    main()
