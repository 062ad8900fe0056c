"""Train on real preference data with a small model: supervised start, then each loss, one and two processes.

Everything is given by path; nothing is downloaded. Example:

    python benchmarks/real_data.py --train hh_train.jsonl.gz --test hh_test.jsonl.gz --out runs/hh

Files hold one pair per line with prompt, chosen and rejected (gzip is unpacked). Prints one table row per run
and writes results.json beside the runs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from sparsepo_plugin.demo.supervised import supervised_start
from sparsepo_plugin.files import write_text
from sparsepo_plugin.metrics import wilson_interval

RUNS: dict[str, list[str]] = {
    "dpo": ["--loss", "dpo"],
    "sparsepo-common": ["--loss", "sparsepo", "--sparsepo.anchor", "0"],
    "sparsepo-independent": [
        *("--loss", "sparsepo", "--sparsepo.masks", "independent", "--sparsepo.normalise", "none"),
        *("--sparsepo.reward_l1", "1e-3", "--sparsepo.kl_l1", "1e-3", "--sparsepo.anchor", "0"),
    ],
}


def read_pairs(path: Path, most: int) -> list[dict[str, str]]:
    """Read prompt, chosen and rejected of at most ``most`` pairs, with a space before each response."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows[:most]]


def write_pairs(path: Path, pairs: list[dict[str, str]]) -> None:
    """Write pairs as JSON lines."""
    write_text(path, "".join(json.dumps(pair) + "\n" for pair in pairs))


def build(folder: Path, pairs: list[dict[str, str]], arguments: argparse.Namespace) -> None:
    """Train a tokenizer and a Llama-type model on the prompts with their chosen responses."""
    texts = [pair["prompt"] + pair["chosen"] for pair in pairs]
    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(texts, vocab_size=arguments.vocabulary, special_tokens=["<pad>", "<eos>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend._tokenizer, pad_token="<pad>", eos_token="<eos>"
    )
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer),
        hidden_size=arguments.hidden,
        intermediate_size=3 * arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 32,
        num_key_value_heads=arguments.hidden // 32,
        max_position_embeddings=arguments.max_len,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    torch.manual_seed(arguments.seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    print(f"model: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    started = time.monotonic()
    losses = supervised_start(
        model, tokenizer, texts, steps=arguments.supervised_steps, batch_size=16, learning_rate=3e-3,
        seed=arguments.seed, max_length=arguments.max_len,
    )  # fmt: skip
    tail = sum(losses[-20:]) / len(losses[-20:])
    seconds = time.monotonic() - started
    print(f"supervised start: {losses[0]:.3f} -> {tail:.3f} nats, {seconds:.0f} s", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(name: str, processes: int, out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one training and read its metrics back."""
    folder = out / f"{name}-{processes}p"
    micro = arguments.batch // processes
    flags = (
        f"--model.model_name_or_path {out / 'reference'} --data.dataset {out / 'train.jsonl'} "
        f"--eval.dataset {out / 'test.jsonl'} --data.prompt_key prompt --data.max_len {arguments.max_len} "
        f"--train.batch_size {arguments.batch} --train.micro_batch_size {micro} "
        f"--train.seed {arguments.seed} "
        f"--train.max_epochs {arguments.epochs} --data.max_samples {arguments.pairs} --ds.zero_stage 2 "
        f"--model.beta {arguments.beta} --adam.lr {arguments.rate} --eval.at_start --overwrite "
        f"--ckpt.output_dir {folder}"
    )
    command = [sys.executable, "-m", "sparsepo_plugin", "train", "--processes", str(processes)]
    command += shlex.split(flags) + RUNS[name]
    print("$ sparsepo " + shlex.join(command[3:]), flush=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(arguments.threads)}
    started = time.monotonic()
    with open(out / f"{name}-{processes}p.log", "wb") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, env=environment)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["split"] == "train"]
    evaluations = [row for row in rows if row["split"] == "eval"]
    return {
        "run": name,
        "processes": processes,
        "steps": len(steps),
        "seconds": time.monotonic() - started,
        "loss_first": steps[0]["loss"],
        "loss_last_20": sum(row["loss"] for row in steps[-20:]) / len(steps[-20:]),
        "before": evaluations[0],
        "after": evaluations[-1],
        "step_seconds": _step_seconds(out / f"{name}-{processes}p.log"),
    }


def _step_seconds(log: Path) -> float:
    """Mean seconds per step as the trainer's last progress bar of an epoch shows it."""
    # The first full bar of the last epoch: later redraws of it include the evaluation.
    found = re.findall(rb"Train step[^|]*100%\|[^|]*\| (\d+)/\d+ \[(\d+):(\d+)(?::(\d+))?<", log.read_bytes())
    counts = [(int(n), [int(part) for part in parts if part]) for n, *parts in found]
    steps, clock = max(counts, key=lambda item: item[0])
    return sum(value * 60**power for power, value in enumerate(reversed(clock))) / steps


def show(result: dict[str, Any], count: int) -> str:
    """Format one row of the table."""
    after, before = result["after"], result["before"]

    def share(row: dict[str, Any], key: str) -> str:
        low, high = wilson_interval(row[key], count)
        return f"{row[key]:.3f} [{low:.3f}, {high:.3f}]"

    sparsity = [after.get(f"{name}_mask_sparsity") or 0.0 for name in ("reward", "kl")]
    parts = (
        f"{result['run']:22} {result['processes']}p {result['steps']} steps",
        f"loss {result['loss_first']:.4f} -> {result['loss_last_20']:.4f}",
        f"held-out accuracy {share(before, 'accuracy')} -> {share(after, 'accuracy')}",
        f"unmasked {share(after, 'accuracy_unmasked')}",
        f"sparsity {sparsity[0]:.3f}/{sparsity[1]:.3f}",
        f"{result['step_seconds']:.2f} s/step",
    )
    return "  ".join(parts)


def main() -> None:
    """Build the reference once, then run every loss with one and two processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/real_data"))
    parser.add_argument("--runs", nargs="+", choices=sorted(RUNS), default=["dpo", "sparsepo-common"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    for name, value in (
        ("vocabulary", 4096), ("hidden", 192), ("layers", 4), ("max_len", 192), ("supervised_steps", 400),
        ("pairs", 2600), ("test_pairs", 1001), ("batch", 4), ("epochs", 1), ("seed", 0), ("threads", 1),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--rate", type=float, default=1e-4)
    arguments = parser.parse_args()
    out = arguments.out
    pairs, test = read_pairs(arguments.train, 1 << 30), read_pairs(arguments.test, arguments.test_pairs)
    write_pairs(out / "train.jsonl", pairs)
    write_pairs(out / "test.jsonl", test)
    if not (out / "reference" / "config.json").exists():
        build(out / "reference", pairs, arguments)
    results = []
    for processes in arguments.processes:
        for name in arguments.runs:
            results.append(train(name, processes, out, arguments))
            print(show(results[-1], len(test)), flush=True)
            write_text(out / "results.json", json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
