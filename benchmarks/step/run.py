"""Step time and peak memory of our losses over OpenRLHF's unmodified DPO; `make bench`.

    python -m benchmarks.step.run                              # TL;DR and HH lengths, all rows
    python -m benchmarks.step.run --sweep vocabulary length share batch
    python -m benchmarks.step.run --pairs 32 --micro 4 --rows sparsepo "sparsepo, sorted by length"

A step is forward of policy and reference, loss, backward and AdamW, on a Llama of 384 x 6 with tied
embeddings, in float32 or --dtype bfloat16. All rows run the same batches, one after the other in every round,
in an order that is reversed from round to round; a ratio is that to the first row within the round. Printed:
median [least .. most] of the rounds, of the clock and of the processors' time; threads that wait do not spin,
so that the latter counts work. "step MiB" is the peak of a step above its start. "loss MiB" is the same where
the blocks of both models are left out: final norm, head, loss, their backward pass, the gradients of hidden
states and head, and the head's update. TRL's row runs where trl can be imported, the sorted one where a step
has several micro-batches.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import sys
import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.step.measure import Run, Usage, Worker
from benchmarks.step.models import SMALL, TINY, Models, Shape, build
from benchmarks.step.report import Line, Setting, append, commit, print_lines
from benchmarks.step.rows import BASE, FULL, OURS, VARIANTS, Runner, Variant, load
from benchmarks.step.workloads import Step, Workload, steps

MADE = Workload("made", pairs=2, micro=2, most=0, length=256, share=0.5)
SWEEPS: dict[str, list[Workload]] = {
    "vocabulary": [replace(MADE, vocabulary=size) for size in (32_000, 128_000, 152_000)],
    "length": [replace(MADE, length=length) for length in (128, 512, 1024)],
    "share": [replace(MADE, length=512, share=share) for share in (0.1, 0.9)],
    "batch": [replace(MADE, pairs=pairs, micro=pairs) for pairs in (1, 4)],
}
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
SWEPT = (BASE, FULL, OURS, "sparsepo, two rows")


def make(variant: Variant, models: Models) -> Run:
    """Build a row in the process that runs it; the models are this process's own from here on."""
    return Runner(variant, models).step


def time_rows(
    variants: list[Variant], models: Models, work: Workload, rounds: int, threads: int
) -> dict[str, list[Usage]]:
    """Interleaved rounds; the first step, untimed, must give the losses that belong together."""
    workers = {v.name: Worker(partial(make, v, models), threads=threads, memory=False) for v in variants}
    first, batches = warm_up(work), steps(work, rounds)
    losses = {v.name: workers[v.name].run(first).loss for v in variants}
    # In bfloat16 every way rounds in another order.
    half = next(models.policy.parameters()).dtype == torch.bfloat16
    _require_equal(variants, losses, 3e-2 if half else 1e-4)
    found: dict[str, list[Usage]] = {v.name: [] for v in variants}
    for number, step in enumerate(batches):
        for variant in variants if number % 2 else variants[::-1]:
            found[variant.name].append(workers[variant.name].run(step))
    for worker in workers.values():
        worker.close()
    return found


def measure_memory(
    variant: Variant, models: Models, work: Workload, rounds: int, threads: int
) -> list[float]:
    """Peaks of steps after one that makes the optimizer's state."""
    worker = Worker(partial(make, variant, models), threads=threads, memory=True)
    worker.run(warm_up(work))
    peaks = [worker.run(step).peak for step in steps(work, rounds)]
    worker.close()
    return peaks


def warm_up(work: Workload) -> Step:
    """A small step that makes the optimizer's state and whatever else is made once."""
    return steps(replace(work, pairs=2, micro=2), 1, seed=1)[0]


def _require_equal(variants: list[Variant], losses: dict[str, float], tolerance: float) -> None:
    """Rows that claim to compute the same loss must; a fast wrong row would be worth nothing."""
    groups: dict[str, list[float]] = {}
    for variant in variants:
        groups.setdefault(variant.computes, []).append(losses[variant.name])
    for word, values in groups.items():
        if max(values) - min(values) > tolerance * max(map(abs, values)):
            raise SystemExit(f"rows that compute {word} differ in their loss: {losses}")


def compare(work: Workload, variants: list[Variant], arguments: argparse.Namespace) -> list[Line]:
    """All measurements of one workload."""
    shape: Shape = TINY if arguments.tiny else SMALL
    dtype = getattr(torch, arguments.dtype)
    models = build(shape, work.vocabulary, dtype=dtype)
    times = time_rows(variants, models, work, arguments.rounds, arguments.threads)
    tokens = statistics.mean(sum(batch.tokens() for batch in step) for step in steps(work, arguments.rounds))
    peaks: list[dict[str, list[float]]] = []
    for head_only in (False, True):
        models = build(shape, work.vocabulary, dtype=dtype, head_only=head_only)
        found = {
            v.name: measure_memory(v, models, work, arguments.memory_rounds, arguments.threads)
            for v in (variants if arguments.memory_rounds else ())
        }
        peaks.append(found)
    return [
        Line(v.name, times[v.name], *(found.get(v.name, []) for found in peaks), round(tokens))
        for v in variants
    ]


def chosen_rows(names: Iterable[str]) -> list[Variant]:
    """The rows asked for, the base always first; TRL's only where it is installed."""
    found = [VARIANTS[BASE], *(VARIANTS[name] for name in names if name != BASE)]
    if importlib.util.find_spec("trl") is None and VARIANTS["trl dpo"] in found:
        print("row 'trl dpo' is left out: trl is not installed", flush=True)
        found.remove(VARIANTS["trl dpo"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workloads", nargs="*", default=["tldr", "hh"], metavar="NAME")
    parser.add_argument("--sweep", nargs="*", default=None, choices=SWEEPS, help="made pairs instead")
    parser.add_argument("--rows", nargs="*", choices=VARIANTS, help="default: all; few in sweeps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-rounds", type=int, default=2, help="0: memory is not measured")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=4, help="pairs of an optimizer step")
    parser.add_argument("--micro", type=int, default=4, help="pairs of a forward pass")
    parser.add_argument("--most", type=int, default=512, help="tokens at which a row is cut")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tiny", action="store_true", help="a model of 32 x 2, to see that it runs")
    parser.add_argument("--out", type=Path, help="CSV file to append to")
    arguments = parser.parse_args()
    if not set(ENVIRONMENT.items()) <= set(os.environ.items()):  # read when a process starts
        os.execve(
            sys.executable,
            [sys.executable, "-m", "benchmarks.step.run", *sys.argv[1:]],
            {**os.environ, **ENVIRONMENT},
        )
    warnings.filterwarnings("ignore")
    commit()  # before a long run, during which somebody may work on
    torch.set_num_threads(1)  # before the fork: a pool of threads would not survive it
    load()
    sizes = {name: getattr(arguments, name) for name in ("vocabulary", "pairs", "micro", "most")}
    works = [Workload(name, **sizes) for name in arguments.workloads]
    if arguments.sweep is not None:
        works = [work for name in arguments.sweep for work in SWEEPS[name]]
    default = SWEPT if arguments.sweep is not None else tuple(VARIANTS)
    model = str(TINY if arguments.tiny else SMALL)
    setting = Setting(f"CPU {platform.machine()}", arguments.threads, arguments.dtype, model)
    for work in works:
        variants = [
            v for v in chosen_rows(arguments.rows or default) if not v.sorted or work.pairs > work.micro
        ]
        lines = compare(work, variants, arguments)
        print_lines(work, lines)
        if arguments.out:
            append(arguments.out, work, lines, setting)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
