"""Does a learned mask with an anchor beat DPO with one, at equal KL? Registered before the first run.

    python benchmarks/planted_mask_anchor.py --out docs/mask-anchor.csv --page docs/mask-anchor.md

docs/mask-anchor-plan.md says what is done and why; the constants here are that page's, and a test compares
them. Finished runs in the CSV are not repeated; the page gets its verdict when no run is missing.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import planted
from sparsepo_plugin.files import write_text

SELECTION, TEST = range(20, 25), range(30, 50)
BETAS, ANCHORS = (0.1, 0.5), (0.0, 0.3, 1.0, 3.0)
FAMILIES = {"dpo": "DPO", "sparsepo": "SparsePO, default masks"}
OUTCOME = "shift_at_0.5"
LEVEL, MISSING = 0.05, 3
CONTEXT = planted.BOUND
Rows = list[dict[str, str]]


class Setting(NamedTuple):
    """One setting of a family's sweep."""

    family: str
    beta: float
    anchor: float

    @property
    def name(self) -> str:
        """As in the CSV."""
        return f"{self.family} beta {self.beta:g} anchor {self.anchor:g}"


class Verdict(NamedTuple):
    """The paired test; ``differences`` are SparsePO minus DPO, one per test seed that has both."""

    word: str
    differences: list[float]
    p: float
    low: float
    high: float


def sweep(family: str) -> list[Setting]:
    """All settings of a family."""
    return [Setting(family, beta, anchor) for beta, anchor in itertools.product(BETAS, ANCHORS)]


def outcomes(rows: Rows, name: str, seeds: range) -> dict[int, float]:
    """Outcome by seed, where a policy came that far."""
    return {
        int(row["seed"]): float(row[OUTCOME])
        for row in rows
        if row["run"] == name and int(row["seed"]) in seeds and row.get(OUTCOME)
    }


def choose(rows: Rows, family: str) -> Setting | None:
    """The setting with the best mean outcome on the selection seeds among those that came far on all."""
    means = {}
    for setting in sweep(family):
        values = outcomes(rows, setting.name, SELECTION)
        if len(values) == len(SELECTION):
            means[setting] = statistics.fmean(values.values())
    return max(means, key=means.__getitem__, default=None)


def sign_flip_p(differences: list[float]) -> float:
    """Two-sided exact p of the mean under independent flips of every sign."""
    sums = np.zeros(1)
    for value in differences:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.mean(np.abs(sums) >= abs(sum(differences)) - 1e-12))


def judge(rows: Rows, chosen: dict[str, Setting]) -> Verdict:
    """The registered test on the test seeds; the interval is Student's, 95 %."""
    from scipy import stats

    values = {family: outcomes(rows, setting.name, TEST) for family, setting in chosen.items()}
    both = sorted(set(values["dpo"]) & set(values["sparsepo"]))
    differences = [values["sparsepo"][seed] - values["dpo"][seed] for seed in both]
    if len(differences) < len(TEST) - MISSING:
        return Verdict("cannot be told", differences, float("nan"), float("nan"), float("nan"))
    p, mean = sign_flip_p(differences), statistics.fmean(differences)
    half = stats.t.ppf(0.975, len(both) - 1) * statistics.stdev(differences) / len(both) ** 0.5
    word = "no difference shown" if p > LEVEL else "ahead" if mean > 0 else "behind"
    return Verdict(word, differences, p, mean - half, mean + half)


def missing(rows: Rows) -> list[tuple[str, int]]:
    """Runs still to be made: the sweep first; then, by what it chose, the test."""
    done = {(row["run"], int(row["seed"])) for row in rows}
    settings = [setting for family in FAMILIES for setting in sweep(family)]
    wanted = [(setting.name, seed) for seed in SELECTION for setting in settings]
    if all(run in done for run in wanted):
        chosen = [setting.name for family in FAMILIES if (setting := choose(rows, family))]
        wanted = [(name, seed) for seed in TEST for name in (*chosen, CONTEXT)]
    return [run for run in wanted if run not in done]


def page(rows: Rows) -> str:
    """Markdown: the sweep, and the verdict where nothing is missing."""
    fields = {OUTCOME: "shift at 0.5 nats", "shift": "shift at the end", "sampled_kl": "nats at the end"}
    fields["accuracy_unmasked"] = "accuracy, masks removed"
    names = [setting.name for family in FAMILIES for setting in sweep(family)]
    lines = ["# Mask and anchor: what came out", "", "Plan: [mask-anchor-plan.md](mask-anchor-plan.md).", ""]
    command = "python benchmarks/planted_mask_anchor.py --out docs/mask-anchor.csv --page docs/mask-anchor.md"
    lines += [f"    {command}", "", f"## Selection, seeds {SELECTION[0]} to {SELECTION[-1]}", ""]
    lines += planted.grid([row for row in rows if int(row["seed"]) in SELECTION], names, fields)
    if left := len(missing(rows)):
        return "\n".join([*lines, "", f"{left} runs are missing: no verdict yet.", ""])
    chosen = {family: choose(rows, family) for family in FAMILIES}
    known = {family: setting for family, setting in chosen.items() if setting is not None}
    lines += ["", f"## Test, seeds {TEST[0]} to {TEST[-1]}", ""]
    if len(known) < len(FAMILIES):
        return "\n".join(
            [*lines, "A family has no setting that came far enough on every seed: **cannot be told**.", ""]
        )
    names = [*(setting.name for setting in known.values()), CONTEXT]
    lines += planted.grid([row for row in rows if int(row["seed"]) in TEST], names, fields)
    verdict = judge(rows, known)
    mean = statistics.fmean(verdict.differences) if verdict.differences else float("nan")
    lines += [
        "",
        f"Mask and anchor against DPO and anchor, by seed ({len(verdict.differences)} of {len(TEST)}): "
        f"{mean:+.3f}, 95 % from {verdict.low:+.3f} to {verdict.high:+.3f}, p = {verdict.p:.4f}. "
        f"Verdict: **{verdict.word}**.",
        "",
    ]
    return "\n".join(lines)


def register() -> None:
    """Put the settings where ``planted.run`` looks them up."""
    for family in FAMILIES:
        for setting in sweep(family):
            planted.RUNS[setting.name] = (family, setting.beta, {"anchor": setting.anchor})


def main() -> None:
    """Run what is missing, a run at a time, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="CSV of results; finished runs are kept")
    parser.add_argument("--page", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    register()
    rows = planted.load(arguments.out)
    while todo := missing(rows):
        for name, seed in tqdm(todo, desc="mask and anchor"):
            started = time.monotonic()
            values = {key: f"{value:.5f}" for key, value in planted.run(name, seed).items()}
            seconds = f"{time.monotonic() - started:.1f}"
            rows.append({"run": name, "seed": str(seed), "seconds": seconds, **values})
            planted.save(arguments.out, rows)
    if arguments.page:
        write_text(arguments.page, page(rows))


if __name__ == "__main__":
    main()
