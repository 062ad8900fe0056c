"""Reasoning and faithfulness before and after, gated: the evaluation harness on the chosen policies.

Policies of the first seed, chosen at the largest budget, are written as Hugging Face folders. `eval-harness
run` measures them and the supervised model, `eval-harness gate` decides; the CSV gets one row per gate.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from eval_harness.run.runner import load_suite_preset
from sparsepo_plugin.errors import RunFailedError, UserError
from sparsepo_plugin.files import write_text
from study.domain import DOMAINS, grouped
from study.language import copy_of, load
from study.preferences import policy_file
from study.rows import Table, read
from study.scales import PREFERENCES
from study.select_policies import select

MAPPING = Path(__file__).parents[2] / "tests" / "eval" / "shared_data.yaml"
METHODS = ("dpo", "sparsepo common")
# The sample of MMLU has four of the five examples that this subject's prompts show.
LEFT_OUT = "mmlu_college_medicine"
# preset, gates, and options of the run beyond those that all share.
SUITES: tuple[tuple[str, str, list[str]], ...] = (
    (
        "reasoning:quick",
        "quick",
        ["--max-length", "320", "--generation", "max_gen_toks=64", "--punkt-standin"],
    ),
    ("faithfulness:summaries", "summaries", ["--max-length", "128"]),
)
SHARED = ["--device", "cpu", "--dtype", "float32", "--batch-size", "32", "--allow-truncation", "--offline"]


def study(
    root: Path,
    work: Path,
    out: Path,
    scale_name: str,
    names: Iterable[str] = tuple(DOMAINS),
    suites: Iterable[str] = ("reasoning", "faithfulness"),
) -> None:
    """Gate every method of METHODS in the named domains, trained before, by the named suites."""
    table = Table(out / "capability.csv", ["domain", "method", "suite"])
    scale = PREFERENCES[scale_name]
    limit = ["--limit", str(scale.evaluated)] if scale.evaluated else []
    inputs = {"reasoning": _tasks, "faithfulness": _documents}
    # The same tasks and documents for every domain.
    ready = {
        suite: (preset, gates, [*options, *inputs[suite](root, work), *limit])
        for preset, gates, options in SUITES
        if (suite := preset.split(":")[0]) in suites
    }
    for name in names:
        sweep = read(out / f"{name}.csv")
        if not sweep:
            raise UserError(f"{out / name}.csv: got no rows, expected the sweep; run the part {name} first")
        chosen, seed = select(sweep, scale.budgets[-1]), scale.seeds[0]
        for suite, method in itertools.product(ready, METHODS):
            if method not in chosen or table.has(domain=name, method=method, suite=suite):
                continue
            (preset, gates, options), choice = ready[suite], chosen[method]
            kept = policy_file(work / name / "policies", method, choice.beta, seed, choice.step)
            folder = export(work / name / "reference", kept, work / name / "models" / kept.stem)
            where = work / name / "eval" / f"{suite}-{kept.stem}"
            decision = gate(folder, work / name / "reference", where, preset, gates, options)
            about = {"domain": name, "method": method, "beta": choice.beta, "step": choice.step}
            about |= {"seed": seed, "suite": suite, "preset": preset}
            table.add({**about, **row} for row in rows_of(decision))
            print(f"gated {name}, {suite}, {method}: {decision['verdict']}", flush=True)


def export(reference: Path, kept: Path, folder: Path) -> Path:
    """Write a kept policy as a plain Hugging Face folder."""
    language = load(reference)
    model = copy_of(language)
    model.load_state_dict(torch.load(kept, weights_only=True)["policy"])
    model.save_pretrained(folder)
    language.tokenizer.save_pretrained(folder)
    return folder


def _tasks(root: Path, work: Path) -> list[str]:
    """Task data, with the data folder filled into the harness's mapping; and the tasks."""
    text = MAPPING.read_text(encoding="utf-8").replace("@ROOT@", str((root / "eval").resolve()))
    write_text(work / "mapping.yaml", text)
    tasks = [task for task in load_suite_preset("reasoning", "quick").tasks() if task != LEFT_OUT]
    return ["--data", str(work / "mapping.yaml"), "--tasks", ",".join(tasks)]


def _documents(root: Path, work: Path) -> list[str]:
    """Held-out posts as documents, without the mark that the preset adds."""
    parts = grouped(root, DOMAINS["summaries"])
    posts = [
        group[0].prompt.removesuffix("TL;DR:").rstrip()
        for part in ("test", "validation")
        for group in parts[part]
    ]
    write_text(work / "documents.jsonl", "".join(json.dumps({"document": post}) + "\n" for post in posts))
    return ["--documents", str(work / "documents.jsonl")]


def gate(
    model: Path, baseline: Path, where: Path, suite: str, gates: str, options: list[str]
) -> dict[str, Any]:
    """Measure both models and decide; the report as JSON.

    Raises:
      RunFailedError: the harness could not measure or decide.
    """
    run = ["run", "--model", str(model), "--baseline", str(baseline), "--suites", suite, "--out", str(where)]
    _harness([*run, "--overwrite", "--cache", str(where.parent / "cache"), *SHARED, *options], where, {0})
    _harness(["gate", str(where), "--gates", gates], where, {0, 1, 3})
    report: dict[str, Any] = json.loads((where / "report" / "report.json").read_text(encoding="utf-8"))
    return report


def _harness(arguments: list[str], where: Path, fine: set[int]) -> None:
    where.parent.mkdir(parents=True, exist_ok=True)
    log = where.parent / f"{where.name}.{arguments[0]}.log"
    with open(log, "wb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "eval_harness", *arguments], stdout=file, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    if done.returncode not in fine:
        raise RunFailedError(
            f"eval-harness {arguments[0]}: got exit code {done.returncode}; its messages: {log}"
        )


def rows_of(decision: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per gate; ``over_margin`` is the difference plus the margin: above 0 is kept."""
    rows = []
    for one in decision["gates"]:
        paired, margin = one["paired"], one["margin"]
        row = {"gate": one["name"], "metric": one["metric"], "items": one["items"], "margin": margin}
        row |= {"before": paired["baseline"], "after": paired["candidate"]}
        difference = paired["candidate"] - paired["baseline"]
        values = {"": difference, "_low": paired["low"], "_high": paired["high"]}
        row |= {f"difference{end}": value for end, value in values.items()}
        row |= {f"over_margin{end}": value + margin for end, value in values.items()}
        rows.append({**row, "verdict": one["verdict"], "overall": decision["verdict"]})
    return rows
