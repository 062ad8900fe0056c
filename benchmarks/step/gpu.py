"""Step time, peak memory and longest rows on one GPU, with torch, triton and transformers alone.

    python3 benchmarks/step/gpu.py --out docs/bench.csv
    python3 benchmarks/step/gpu.py --checkpointing --longest 65536
    python3 benchmarks/step/gpu.py --tiny           # a tiny model in float32 on any device: does it run?

A Llama of the sizes of Llama 3.2 1B in bfloat16 with random weights. A step is forward of policy and
reference, loss and backward; the optimizer, the same for all rows, is left out of it. The first row is
OpenRLHF's DPO written down again; a test holds it to the original's loss and gradients. Attention is sdpa but
for the row that says FlexAttention. All rows run the same batches in turn, in an order that is reversed from
round to round, after steps that compile and warm up; ratios are to the first row within a round, printed as
median [least .. most]. "step MiB" is the allocator's peak above the models, "loss MiB" the same without the
models' blocks. A row that does not fit says so. --longest N looks for the longest row, half of it prompt, up
to N tokens, of which one pair fits.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.step.bare import Ours, PlainDPO, PlainSparsePO, objective_of
from benchmarks.step.measure import Usage
from benchmarks.step.models import ONE_BILLION, TINY, Models, build
from benchmarks.step.report import Line, Setting, append, commit, print_lines
from benchmarks.step.workloads import Step, Workload, steps

Make = Callable[[Models], Any]


def _ours(loss: str, **options: Any) -> Make:
    return lambda models: Ours(models, objective_of(loss, models), **options)


ROWS: dict[str, Make] = {
    "dpo, as OpenRLHF's": PlainDPO,
    "sparsepo, full logits": lambda models: PlainSparsePO(models, objective_of("sparsepo", models)),
    "sparsepo, two rows": _ours("sparsepo", shared=False),
    "sparsepo, sdpa": _ours("sparsepo"),
    "sparsepo, FlexAttention": _ours("sparsepo", attention="flex_attention"),
    "sparsepo, logits, two rows": _ours("sparsepo", head="off", shared=False),
    "tdpo1 (no mask), two rows": _ours("tdpo1", shared=False),
    "dpo (no mask, no kl), two rows": _ours("dpo", shared=False),
}


class Bench:
    """Both models on the device, and what is measured on them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.cuda = torch.cuda.is_available()
        self.device = "cuda" if self.cuda else "cpu"
        self.shape = TINY if arguments.tiny else ONE_BILLION
        self.dtype = torch.float32 if arguments.tiny else torch.bfloat16
        self.vocabulary = 500 if arguments.tiny else 128_256
        self.checkpointing = arguments.checkpointing
        # FlexAttention has no backward pass without CUDA.
        self.rows = {name: make for name, make in ROWS.items() if self.cuda or "Flex" not in name}

    def models(self, *, head_only: bool = False) -> Models:
        """Policy and reference."""
        models = build(self.shape, self.vocabulary, device=self.device, dtype=self.dtype, head_only=head_only)
        if self.checkpointing:
            models.policy.gradient_checkpointing_enable({"use_reentrant": False})
        return models

    def usage(self, row: Any, step: Step) -> Usage | None:
        """One step; None where it does not fit."""
        row.models.policy.zero_grad(set_to_none=True)
        row.mask_source.zero_grad(set_to_none=True)
        batches, before = [batch.to(self.device) for batch in step], self._start()
        try:
            with row.ready():
                wall, cpu = time.perf_counter(), time.process_time()
                total = 0.0
                for batch in batches:
                    loss = row.loss(batch) / len(batches)
                    loss.backward()
                    total += loss.item()
                self._wait()
            return Usage(total, time.perf_counter() - wall, time.process_time() - cpu, self._peak() - before)
        except torch.OutOfMemoryError:
            return None

    def compare(self, work: Workload, rounds: int) -> list[Line]:
        """All rows on one workload."""
        models = self.models()
        rows, batches = self.built(models), steps(work, rounds)
        # Twice over every batch: FlexAttention is compiled per shape.
        fits = {name: all(self.usage(row, step) for step in batches * 2) for name, row in rows.items()}
        times: dict[str, list[Usage]] = {name: [] for name in rows}
        for number, step in enumerate(batches):
            for name in list(rows)[:: 1 if number % 2 else -1]:
                if fits[name] and (used := self.usage(rows[name], step)):
                    times[name].append(used)
        del rows, models
        tokens = round(statistics.mean(sum(batch.tokens() for batch in step) for step in batches))
        lines = []
        for name, row in self.built(self.models(head_only=True)).items():
            # The first step looks at more than the others do.
            found = [self.usage(row, batches[0]) for _ in range(2)][1] if self.cuda else None
            peaks = [used.peak for used in times[name]] if self.cuda else []
            lines.append(Line(name, times[name], peaks, [found.peak] if found else [], tokens))
        return lines

    def built(self, models: Models) -> dict[str, Any]:
        """The rows that these models allow; the first is always there."""
        found = {}
        for name, make in self.rows.items():
            try:
                found[name] = make(models)
            except ValueError as reason:
                print(f"row '{name}' is left out: {reason}")
        return found

    def longest(self, most: int) -> dict[str, int]:
        """The longest row, in steps of 256 tokens, of which a step with one pair fits."""
        models, found = self.models(), {}
        for name, row in self.built(models).items():
            size, good, bad = 4, 0, most // 256 + 1
            while bad - good > 1:
                size = min(2 * size if bad > most // 256 else (good + bad) // 2, bad - 1)
                pair = Workload("made", self.vocabulary, 1, 1, 0, 256 * size, 0.5)
                good, bad = (size, bad) if self.usage(row, steps(pair, 1)[0]) else (good, size)
            found[name] = 256 * good
        return found

    def setting(self) -> Setting:
        """What the CSV says about all rows."""
        name = torch.cuda.get_device_name() if self.cuda else "CPU"
        recomputed = ", checkpointing" if self.checkpointing else ""
        return Setting(name, 0, str(self.dtype).removeprefix("torch."), f"{self.shape}{recomputed}")

    def _start(self) -> float:
        if not self.cuda:
            return 0.0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._wait()
        return torch.cuda.memory_allocated() / 2**20

    def _peak(self) -> float:
        return torch.cuda.max_memory_allocated() / 2**20 if self.cuda else 0.0

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true", help="the policy recomputes its blocks")
    parser.add_argument("--longest", type=int, default=0, help="look for the longest row up to this length")
    parser.add_argument("--tiny", action="store_true", help="a tiny model in float32 on short rows")
    parser.add_argument("--out", type=Path, help="CSV file to append to")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    commit()  # before a long run, during which somebody may work on
    bench = Bench(arguments)
    if not bench.cuda and not arguments.tiny:
        raise SystemExit("no CUDA device is visible: expected one; --tiny runs on CPU")
    setting = bench.setting()
    print(f"{setting.device}, {setting.model}, {setting.dtype}, torch {torch.__version__}")
    lengths = (16, 32) if arguments.tiny else (2048, 8192)
    vocabulary, most = bench.vocabulary, 64 if arguments.tiny else 512
    works = [Workload("made", vocabulary, 1, 1, 0, length, 0.5) for length in lengths]
    works.append(Workload("tldr" if not arguments.tiny else "hh", vocabulary, 8, 8, most))
    for work in works:
        lines = bench.compare(work, arguments.rounds)
        print_lines(work, lines)
        if arguments.out:
            append(arguments.out, work, lines, setting)
    if arguments.longest:
        print("\nlongest row of which one pair fits, tokens")
        for name, length in bench.longest(arguments.longest).items():
            print(f"{name:32} {length:8}{' (the limit)' if length + 256 > arguments.longest else ''}")


if __name__ == "__main__":
    main()
