"""Peak memory of a training step with our losses, over that of OpenRLHF's own unmodified DPO.

    python benchmarks/memory.py --out docs/memory.csv

Every run is a process of its own on CPU: a Llama of 4 layers with a vocabulary large enough that logits
dominate, as they do in real models, random pairs of ragged lengths. Measured is the resident set of the
process: its peak, minus its size when everything is imported and nothing is loaded. That is weights,
gradients, optimizer, activations and logits, as a GPU's allocator would count them. glibc is told to give
every freed block back at once, so that the peak is of memory in use. Rows: upstream's loss and trainer
("upstream"), and ours; padded and packed. The median of --repeats runs counts; the spread is printed. A
CSV row is written per line of the table: MiB, ratio, device, commit.
Pages of libraries that a training is the first to touch count in every row alike.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import multiprocessing
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

LOSSES: dict[str, list[str]] = {
    "upstream": [],
    "dpo": ["--loss", "dpo"],
    "tdpo1": ["--loss", "tdpo1"],
    "sparsepo": ["--loss", "sparsepo", "--sparsepo.anchor", "0"],
    "mapo": ["--loss", "mapo"],
}
ROWS: dict[str, list[str]] = {"padded": [], "packed": ["--ds.packing_samples"]}


# Every block of 64 KiB or more is mapped by itself and unmapped when it is freed.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", **ALLOCATOR}


def import_everything() -> None:
    """Import what a training imports, once, in the process that the measured ones are forked from."""
    from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf

    import_openrlhf()
    import openrlhf.cli.train_dpo  # noqa: F401

    import sparsepo_plugin.adapters.openrlhf.launch
    import sparsepo_plugin.adapters.openrlhf.trainer  # noqa: F401


def measure(argv: list[str], answer: Connection, log: Path) -> None:
    """Train in this process; send exit code and peak of the resident set above its size now, in bytes."""
    from sparsepo_plugin import train_dpo

    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak
    with open(log, "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = train_dpo.main(argv)
    answer.send((code, resident("VmHWM") - before))


def resident(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status: this benchmark needs Linux")


def write_inputs(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Write model and data; return the flags of every run."""
    from sparsepo_plugin.demo.tiny import build_model, build_tokenizer, save_tiny

    words = [f"w{number}" for number in range(arguments.vocabulary)]
    tokenizer = build_tokenizer(words)
    model = build_model(tokenizer, hidden_size=arguments.hidden, layers=4)
    save_tiny(folder / "model", model, tokenizer)
    rng, most = random.Random(0), arguments.length

    def text(count: int) -> str:
        return " ".join(rng.choices(words, k=count))

    pairs = [
        {"prompt": text(most // 4), "chosen": f" {text(rng.randint(most // 8, most // 2))}",
         "rejected": f" {text(rng.randint(most // 8, most // 2))}"}
        for _ in range(arguments.pairs * arguments.steps)
    ]  # fmt: skip
    (folder / "train.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return [
        *("--model.model_name_or_path", str(folder / "model"), "--data.dataset", str(folder / "train.jsonl")),
        *("--data.prompt_key", "prompt", "--data.max_len", str(most), "--ds.zero_stage", "2"),
        *("--train.micro_batch_size", str(arguments.pairs), "--train.batch_size", str(arguments.pairs)),
        *("--adam.lr", "1e-4"),
    ]  # fmt: skip


def run(argv: list[str], log: Path) -> float:
    """Measure in a fresh process; MiB."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(argv, sender, log))
    process.start()
    process.join()
    code, peak = receiver.recv() if receiver.poll() else (process.exitcode, 0)
    if code:
        raise SystemExit(f"run failed with code {code}: {log.read_text()[-3000:]}")
    return float(peak) / 2**20


def commit() -> str:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return found.stdout.strip() or "unknown"


def compare(arguments: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """Measure every loss, padded and packed, repeats interleaved; print the table."""
    common = write_inputs(folder, arguments)
    peaks: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.repeats):
        for rows, packing in ROWS.items():
            for loss, flags in LOSSES.items():
                out = folder / f"{rows}-{loss}"
                argv = [*common, *packing, *flags, "--overwrite", "--ckpt.output_dir", str(out)]
                peaks.setdefault((rows, loss), []).append(run(argv, out.with_suffix(".log")))
    table = []
    print(f"{'rows':8} {'loss':10} {'MiB':>8} {'spread':>7} {'ratio':>6}")
    for (rows, loss), found in peaks.items():
        peak = statistics.median(found)
        ratio = peak / statistics.median(peaks[rows, "upstream"])
        spread = max(found) - min(found)
        print(f"{rows:8} {loss:10} {peak:8.0f} {spread:7.1f} {ratio:6.2f}")
        table.append({
            "rows": rows, "loss": loss, "peak_mib": round(peak, 1), "spread_mib": round(spread, 1),
            "ratio_to_upstream": round(ratio, 3), "vocabulary": arguments.vocabulary,
            "hidden": arguments.hidden, "pairs": arguments.pairs, "length": arguments.length, "dtype": "bf16",
            "zero_stage": 2,
            "repeats": arguments.repeats, "device": f"CPU {platform.machine()}", "commit": commit(),
        })  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV file to write")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=4, help="pairs per step")
    parser.add_argument("--length", type=int, default=256, help="most tokens of prompt and response")
    parser.add_argument("--steps", type=int, default=2, help="the second has an optimizer state")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    if not set(ENVIRONMENT.items()) <= set(os.environ.items()):  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ENVIRONMENT})
    import_everything()
    with tempfile.TemporaryDirectory() as folder:
        table = compare(arguments, Path(folder))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with open(arguments.out, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, table[0])
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
