"""What a step of every method costs, in processor time, as a multiple of DPO's in the same run.

    python benchmarks/methods_cost.py --out docs/methods-cost.csv

A step is what trainers run: both models' forward passes with the fused head, masks, loss and backward, but
no optimizer; pairs have TL;DR's lengths, and chosen and rejected rows are separate. Methods take turns on the
same batch, in another order every round, so that what else the machine does reaches all of them.
``planted.py --methods`` puts the medians into its table.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import planted
from benchmarks.step.bare import positions, two_rows
from benchmarks.step.models import SMALL, TINY, Models, Shape, build
from benchmarks.step.workloads import PairBatch, Workload, steps
from sparsepo_plugin import registry
from sparsepo_plugin.adapters.step import PreferenceStep
from sparsepo_plugin.adapters.trl.sites import recording_sites
from sparsepo_plugin.configured_loss import ConfiguredLoss, reference_shape
from sparsepo_plugin.forward.window import response_window

BASE, BETA, SEED = "dpo", 0.1, 0
ANCHORED = " + anchor"
METHODS = [name for name in planted.METHODS if not name.startswith("oracle")]
Step = Callable[[PairBatch], float]


def step_of(method: str, models: Models) -> Step:
    """Make a function that runs a method's step on a batch and gives seconds of processors."""
    loss = registry.get(method.removesuffix(ANCHORED))
    options = loss.options.build({"anchor": 1.0 if method.endswith(ANCHORED) else 0.0})
    objective = ConfiguredLoss(loss, options, reference_shape(models.reference.config))
    sites = recording_sites(models.reference, objective.needs.activations)
    step = PreferenceStep(objective, *models, objective.build_masks(SEED), sites=sites)

    def run(batch: PairBatch) -> float:
        models.policy.zero_grad()
        ids, attention, response = two_rows(batch)
        inputs = {"attention_mask": attention, "position_ids": positions(attention)}
        window = response_window(ids, ids.masked_fill(~response, -100))
        weights = None
        if objective.needs.token_weights:
            weights = torch.rand(window.labels[:, 1:].shape, generator=torch.Generator().manual_seed(SEED))
        started = time.process_time()
        reference = step.run_reference(lambda **asked: models.reference(ids, **inputs, **asked), window)
        policy = step.run_policy(
            lambda **asked: models.policy(ids, **inputs, **asked), window, reference=reference
        )
        result = step.evaluate(policy, reference, BETA, evaluating=False, token_weights=weights)
        result.loss.backward()
        return time.process_time() - started

    return run


def measure(methods: list[str], shape: Shape, work: Workload, rounds: int) -> dict[str, list[float]]:
    """Seconds of every method in every round; a first round, in which memory is got, is left out."""
    models = build(shape, work.vocabulary)
    ready = {method: step_of(method, models) for method in methods}
    found: dict[str, list[float]] = {method: [] for method in methods}
    rng = random.Random(SEED)
    for number, (batch,) in enumerate(tqdm(steps(work, rounds + 1, SEED), desc="rounds")):
        for method in rng.sample(methods, len(methods)):
            seconds = ready[method](batch)
            if number:
                found[method].append(seconds)
    return found


def rows_of(found: dict[str, list[float]]) -> list[dict[str, str]]:
    """Seconds, and the ratio to DPO's step of the same round, median, smallest and largest."""
    rows = []
    for method, seconds in found.items():
        ratios = [one / base for one, base in zip(seconds, found[BASE], strict=True)]
        shown = (statistics.median(ratios), min(ratios), max(ratios))
        names = ("ratio", "ratio_least", "ratio_most")
        rows.append(
            {
                "method": method,
                "rounds": str(len(seconds)),
                "seconds": f"{statistics.median(seconds):.4f}",
                **{name: f"{value:.3f}" for name, value in zip(names, shown)},
            }
        )
    return rows


def main() -> None:
    """Measure, print, and write the CSV."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="CSV to write")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", choices=METHODS, help=f"methods beside {BASE}; default all")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to see that it works")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shape, work = (TINY, Workload("tldr", 300)) if arguments.tiny else (SMALL, Workload("tldr"))
    chosen = [name for name in METHODS if not arguments.only or name in (BASE, *arguments.only)]
    rows = rows_of(measure(chosen, shape, work, arguments.rounds))
    print(f"{shape}, vocabulary {work.vocabulary}, {work.pairs} pairs a step, one thread, float32")
    for row in rows:
        print(f"{row['method']:24}{row['seconds']:>9} s{row['ratio']:>8}", end="")
        print(f"  [{row['ratio_least']} .. {row['ratio_most']}]")
    if arguments.out:
        planted.save(arguments.out, rows)


if __name__ == "__main__":
    main()
