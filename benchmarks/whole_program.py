"""What a user pays: whole trainings from the command line, over OpenRLHF's own unmodified DPO.

    python -m benchmarks.whole_program                                    # HH and TL;DR lengths, both dtypes
    python -m benchmarks.whole_program --workloads hh --dtypes bf16 --steps 40 --rounds 3
    python -m benchmarks.whole_program --model DIR                        # a model of your own

Every row is a process of its own, from its start to its end: imports, loading, DeepSpeed at ZeRO 2, training,
saving. The base is OpenRLHF's trainer and loss (`train_dpo` without --loss). Models are a Llama of 384 x 6
with random weights, or the one given; pairs are random words with the lengths of real pairs
(step/lengths), cut at 512 tokens. Rows take turns within a round, in an order that is reversed from round to
round. Printed: median [least .. most] over rounds of the ratio of processor time (user and system, the
process and its children) and of the clock's, the seconds of the base, and the same without what a run of one
step takes, which is the training loop alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.step.models import SEED, SMALL, TINY, build
from benchmarks.step.report import ratios
from benchmarks.step.workloads import FIRST, Workload, triples

ROWS = {
    "openrlhf dpo": [],
    "dpo": ["--loss", "dpo"],
    "sparsepo": ["--loss", "sparsepo", "--sparsepo.anchor", "0"],
}
BASE = "openrlhf dpo"
VOCABULARY = 32_000


class Cost(NamedTuple):
    """Seconds of processors and of the clock."""

    processor: float
    clock: float


def write_model(folder: Path, tiny: bool) -> list[str]:
    """Save a model with a tokenizer of one token a word; returns its words."""
    from sparsepo_plugin.demo.tiny import build_tokenizer

    words = [f"w{number}" for number in range(VOCABULARY - FIRST)]
    tokenizer = build_tokenizer(words)
    build(TINY if tiny else SMALL, VOCABULARY).policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return words


def words_of(model: Path) -> list[str]:
    """Words that are one token each of a given model's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    lower = (
        word for word in tokenizer.get_vocab() if len(word) > 2 and word[1:].isalpha() and word.isascii()
    )
    plain = sorted({word.lower() for word in lower})
    return [word for word in plain if len(tokenizer(f" {word}", add_special_tokens=False).input_ids) == 1]


def write_pairs(path: Path, name: str, words: list[str], count: int) -> None:
    """Pairs with lengths drawn from a workload's; a seed of their own."""
    rng, known = random.Random(SEED), triples(Workload(name))

    def text(tokens: int) -> str:
        return " ".join(rng.choices(words, k=tokens))

    rows = []
    for prompt, chosen, rejected in (rng.choice(known) for _ in range(count)):
        # One token of each is the end-of-text token that the trainer adds.
        sides = {"chosen": f" {text(max(1, chosen - 1))}", "rejected": f" {text(max(1, rejected - 1))}"}
        rows.append({"prompt": text(max(1, prompt)), **sides})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(row: str, inputs: Path, model: Path, dtype: str, steps: int, arguments: argparse.Namespace) -> Cost:
    """Train in a fresh process."""
    out = inputs / "out"
    command = [sys.executable, "-m", "sparsepo_plugin.train_dpo", *ROWS[row]]
    options = {
        "model.model_name_or_path": model, "data.dataset": inputs / f"{steps}.jsonl",
        "data.prompt_key": "prompt",
        "data.max_len": 512, "ds.zero_stage": 2, "ds.param_dtype": dtype, "adam.lr": 1e-6,
        "train.micro_batch_size": arguments.micro, "train.batch_size": arguments.pairs,
        "ckpt.output_dir": out, "logger.logging_steps": 1,
    }  # fmt: skip
    command += [
        "--overwrite",
        *(str(word) for name, value in options.items() for word in (f"--{name}", value)),
    ]
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(arguments.threads), "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    clock, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{row}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return Cost(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, clock)


def compare(name: str, dtype: str, folder: Path, arguments: argparse.Namespace) -> None:
    """All rows of a workload in a dtype: whole programs, and programs of one step."""
    model: Path = arguments.model or folder / "model"
    words = words_of(model) if arguments.model else write_model(model, arguments.tiny)
    for steps in (1, arguments.steps):
        write_pairs(folder / f"{steps}.jsonl", name, words, steps * arguments.pairs)
    found: dict[str, list[Cost]] = {row: [] for row in arguments.rows}
    short: dict[str, list[Cost]] = {row: [] for row in arguments.rows}
    for number in range(arguments.rounds):
        for row in arguments.rows if number % 2 else arguments.rows[::-1]:
            short[row].append(run(row, folder, model, dtype, 1, arguments))
            found[row].append(run(row, folder, model, dtype, arguments.steps, arguments))
    about = f"{arguments.steps} steps of {arguments.pairs} pairs, {arguments.micro} at once"
    print(f"\n{name}, {dtype}: {about}, {arguments.threads} threads, {arguments.rounds} rounds")
    print(f"{'row':14} {'processor s':>11} {'whole':>20} {'clock':>20} {'loop alone':>20}")
    for row in arguments.rows:
        costs = [
            ratios([c.processor for c in found[row]], [c.processor for c in found[BASE]]),
            ratios([c.clock for c in found[row]], [c.clock for c in found[BASE]]),
            ratios(*([a.processor - b.processor for a, b in zip(found[r], short[r])] for r in (row, BASE))),
        ]
        cells = "".join(f" {c.median:6.2f} [{c.least:.2f} .. {c.most:.2f}]" for c in costs)
        print(f"{row:14} {found[row][0].processor:11.1f}{cells}", flush=True)


def main() -> None:
    """Compare in every dtype and workload asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=["hh", "tldr"])
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--model", type=Path, help="folder; default: a Llama of 384 x 6")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the program")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=8, help="of an optimizer step")
    parser.add_argument("--micro", type=int, default=4, help="pairs of a forward pass")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if BASE not in arguments.rows:
        arguments.rows.insert(0, BASE)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.workloads:
            for dtype in arguments.dtypes:
                compare(name, dtype, Path(folder), arguments)


if __name__ == "__main__":
    main()
