"""Count the tokens a model reads for real pairs: padding, what length-aware batches and shared prefixes save.

Everything is given by path; nothing is downloaded or trained. Example:

    python benchmarks/padding.py tldr_train.jsonl.gz hh_train.jsonl.gz

Files hold one pair per line with prompt, chosen and rejected (gzip is unpacked). A byte-level BPE tokenizer
is made of each file. Pairs are dealt by the samplers that training uses. Prints one Markdown table; every
figure is tokens read, padding included, over the tokens of two rows per pair without padding.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from real_data import read_pairs
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf

import_openrlhf()
from openrlhf.utils.distributed_sampler import DistributedSampler  # noqa: E402

from sparsepo_plugin.adapters.openrlhf.data_order import StepSampler  # noqa: E402


def lengths(path: Path, arguments: argparse.Namespace) -> Tensor:
    """Tokens of chosen row, rejected row and shared row of every pair that fits, [pairs, 3]."""
    pairs = read_pairs(path, arguments.pairs)
    tokenizer = ByteLevelBPETokenizer()
    texts = (pair["prompt"] + pair["chosen"] for pair in pairs)
    tokenizer.train_from_iterator(texts, vocab_size=arguments.vocabulary)
    found = []
    for pair in pairs:
        one, other = (tokenizer.encode(pair["prompt"] + pair[key]).ids for key in ("chosen", "rejected"))
        common = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
        if max(len(one), len(other)) <= arguments.max_len:
            found.append((len(one), len(other), len(one) + len(other) - common))
    return torch.tensor(found)


def tokens_read(sizes: Tensor, order: list[int], micro: int) -> tuple[int, int]:
    """Tokens of padded micro-batches over one epoch: in two rows per pair, in shared rows."""
    two = shared = 0
    for start in range(0, len(order) - micro + 1, micro):
        part = sizes[order[start : start + micro]]
        two += 2 * len(part) * int(part[:, :2].max())
        shared += len(part) * int(part[:, 2].max())
    return two, shared


def rows(path: Path, arguments: argparse.Namespace) -> list[str]:
    """The table's rows of a file: upstream's batches, and length-aware ones."""
    sizes = lengths(path, arguments)
    shape = {"num_replicas": 1, "rank": 0, "seed": arguments.seed}
    step = arguments.batch // arguments.micro * arguments.micro
    samplers = {
        "upstream's": DistributedSampler(range(len(sizes)), shuffle=True, drop_last=True, **shape),
        "length-aware": StepSampler(
            len(sizes), epochs=1, step=step, micro_batch=arguments.micro, sizes=sizes[:, 2].tolist(), **shape
        ),
    }  # fmt: skip
    real, table = int(sizes[:, :2].sum()), []
    for name, sampler in samplers.items():
        two, shared = tokens_read(sizes, list(sampler), arguments.micro)
        table.append(f"| {path.name} | {name} | {two / real:.2f} | {shared / real:.2f} |")
    saved = int(sizes[:, 2].sum()) / real
    return [*table, f"| {path.name} | no padding | 1.00 | {saved:.2f} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--micro", type=int, default=8, help="pairs per micro-batch")
    parser.add_argument("--batch", type=int, default=128, help="pairs per optimizer step")
    parser.add_argument("--max-len", type=int, default=1024, help="leave out pairs with longer rows")
    parser.add_argument("--pairs", type=int, default=100_000, help="read at most this many")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| file | batches | two rows | shared rows |\n| --- | --- | --- | --- |")
    for path in arguments.files:
        print("\n".join(rows(path, arguments)), flush=True)


if __name__ == "__main__":
    main()
