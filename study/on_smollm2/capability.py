"""Reasoning and faithfulness before and after, by eval-harness and its gates, with the registered items."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from sparsepo_plugin.errors import RunFailedError, UserError
from sparsepo_plugin.files import write_text
from sparsepo_plugin.metrics import wilson_interval
from study.capability import LEFT_OUT, rows_of
from study.on_smollm2.analysis import best_betas
from study.on_smollm2.domains import Room
from study.on_smollm2.plan import DTYPE, TASKS, Task
from study.on_smollm2.sweep import GATED
from study.rows import Row, Table

TOP = Path(__file__).parents[2]
QUICK = TOP / "configs" / "eval" / "suites" / "quick.yaml"
MAPPING = TOP / "tests" / "eval" / "shared_data.yaml"
SMALL_ITEMS = 4  # of every task, at the small scales


def study(arguments: argparse.Namespace, rooms: Sequence[Room], validation: list[Row], model: Path) -> None:
    """A row per gate, for the policies kept of GATED in every domain that has been trained."""
    table = Table(arguments.out / "smollm2_capability.csv", ["domain", "method", "suite"])
    suites = write_suites(arguments.data, arguments.work, rooms, arguments.scale == "full")
    for room in rooms:
        if not any(row["domain"] == room.name for row in validation):
            continue
        betas = best_betas(room, validation, room.scale.budgets[-1])
        for method in GATED:
            folder = policy(room, validation, method, betas.get(method))
            for suite, (words, gates) in suites.items():
                if folder is None or table.has(domain=room.name, method=method, suite=suite):
                    continue
                where = arguments.work / "eval" / f"{suite}-{room.name}-{method}"
                report = gate(["--model", folder, "--baseline", model, *words], gates, where)
                about = {"domain": room.name, "method": method, "suite": suite, "policy": folder.name}
                table.add({**about, **row, **_chance(row)} for row in rows_of(report))
                print(f"gated {suite}, {room.name}, {method}: {report['verdict']}", flush=True)


def policy(room: Room, validation: Sequence[Row], method: str, beta: str | None) -> Path | None:
    """The kept folder of the first seed at the chosen beta; None where no stop was within the budget.

    Raises:
      UserError: the sweep has not got so far.
    """
    runs = [
        row["run"]
        for row in validation
        if (row["domain"], row["method"], row["beta"]) == (room.name, method, beta)
        and row["seed"] == str(room.scale.seeds[0])
    ]
    if not runs:
        raise UserError(f"{room.name}: got no finished runs of {method}; run the part {room.name} first")
    folder = room.work / "policies" / runs[0]
    return folder if folder.is_dir() else None


def _chance(row: dict[str, Any]) -> dict[str, Any]:
    """Whether the start is above chance, by its own 95 % interval; a task at chance can lose nothing."""
    task = TASKS.get(row["gate"])
    if task is None:
        return {}
    low = wilson_interval(row["before"], int(row["items"]))[0]
    return {"chance": task.chance, "before_low": low, "above_chance": low > task.chance}


def items_needed(task: Task) -> int:
    """Of the textbook formula: 80 % of the chances to say KEPT where nothing changed, level .05."""
    z = 1.644854 + 0.841621
    return math.ceil((z / task.margin) ** 2 * task.discordance)


def write_suites(
    root: Path, work: Path, rooms: Sequence[Room], full: bool
) -> dict[str, tuple[list[object], Path]]:
    """Presets, gates, data and documents as files; by suite the words of the command and the gates."""
    subjects = [
        f"{name}_continuation"
        for group in yaml.safe_load(QUICK.read_text(encoding="utf-8"))["groups"]
        if group["name"] == "mmlu"
        for name in group["tasks"]
        if name != LEFT_OUT
    ]
    groups = _groups({"mmlu": subjects}, full)
    for name in ("choices", "instructions"):
        some = [g for g in groups if (g["name"] == "ifeval") == (name == "instructions")]
        preset = {"version": 1, "suite": "reasoning", "title": f"SmolLM2: {name}", "average": False}
        preset |= {"sources": ["hellaswag", "arc", "mmlu/continuation", "leaderboard"], "groups": some}
        write_text(work / f"{name}.yaml", yaml.safe_dump(preset, sort_keys=False))
        _write_gates(work / f"{name}-gates.yaml", [g["name"] for g in some])
    mapping = MAPPING.read_text(encoding="utf-8").replace("@ROOT@", str((root / "eval").resolve()))
    split = '{1}"}}\n    dev: {file: mmlu_dev.jsonl.gz, where: {subject: "{1}"}}\n'
    mmlu = f'  "mmlu_*_continuation":\n    test: {{file: mmlu_test.jsonl.gz, where: {{subject: "{split}'
    write_text(work / "data.yaml", mapping.replace('  "mmlu_*":\n', mmlu + '  "mmlu_*":\n'))
    posts = next(room.prompts for room in rooms if room.name == "summaries")
    texts = [p.removesuffix("TL;DR:").rstrip() for part in ("validation", "test") for p in posts[part]]
    write_text(work / "documents.jsonl", "".join(json.dumps({"document": t}) + "\n" for t in texts))
    data = ["--data", work / "data.yaml"]
    chat = ["--chat-template", "--punkt-standin", "--generation", f"max_gen_toks={256 if full else 8}"]
    posts_preset = TOP / "study" / "real_demo" / "posts.yaml"
    return {
        "choices": (["--suites", f"reasoning:{work / 'choices.yaml'}", *data], work / "choices-gates.yaml"),
        "instructions": (
            ["--suites", f"reasoning:{work / 'instructions.yaml'}", *data, *chat],
            work / "instructions-gates.yaml",
        ),
        "faithfulness": (
            ["--suites", f"faithfulness:{posts_preset}", "--documents", work / "documents.jsonl"],
            TOP / "study" / "real_demo" / "gates-posts.yaml",
        ),
    }


def _groups(parts: dict[str, list[str]], full: bool) -> list[dict[str, Any]]:
    """Groups of a preset, with the columns and clusters of the shipped ones."""
    shipped = {g["name"]: g for g in yaml.safe_load(QUICK.read_text(encoding="utf-8"))["groups"]}
    groups = []
    for name in TASKS:
        group = {**shipped[name], "limit": None if full else SMALL_ITEMS}
        if name in parts:
            # Answers as texts, not letters: a small model does not know the letters.
            group |= {"shots": 0, "metrics": ["acc_norm,none"], "tasks": dict.fromkeys(parts[name], 4)}
            group["limit"] = None if full else 1
        groups.append(group)
    return groups


def _write_gates(path: Path, names: Sequence[str]) -> None:
    patterns = {"mmlu": "mmlu_*_continuation", "ifeval": "leaderboard_ifeval"}
    gates = {}
    for name in names:
        task = TASKS[name]
        gate: dict[str, Any] = {"tasks": [patterns.get(name, name)], "margin": task.margin}
        gate |= {"discordance": task.discordance, "items": task.items}
        if name == "ifeval":
            gate["metric"] = "inst_level_strict_acc,none"
        gates[name] = gate
    write_text(path, yaml.safe_dump({"version": 1, "title": "SmolLM2", "alpha": 0.05, "gates": gates}))


def gate(words: Sequence[object], gates: Path, where: Path) -> dict[str, Any]:
    """Measure both models and decide; the report.

    Raises:
      RunFailedError: the harness could not.
    """
    shared = ["--device", "cpu", "--dtype", DTYPE, "--batch-size", 8, "--offline", "--overwrite"]
    _harness(["run", *words, "--out", where, "--cache", where.parent / "cache", *shared], where, {0})
    _harness(["gate", where, "--gates", gates], where, {0, 1, 3})
    report: dict[str, Any] = json.loads((where / "report" / "report.json").read_text(encoding="utf-8"))
    return report


def _harness(words: Sequence[object], where: Path, fine: set[int]) -> None:
    where.parent.mkdir(parents=True, exist_ok=True)
    log = where.parent / f"{where.name}.{words[0]}.log"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    with open(log, "wb") as file:
        command = [sys.executable, "-m", "eval_harness", *map(str, words)]
        code = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
    if code not in fine:
        raise RunFailedError(f"eval-harness {words[0]}: got exit code {code}; its messages: {log}")
