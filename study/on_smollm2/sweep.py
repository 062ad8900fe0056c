"""Tuning on validation prompts, then every method, beta and seed; rows and items of every stop."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from study.choose import Setting
from study.frontier import Point as Spot
from study.frontier import within
from study.measure import mean_and_error
from study.on_smollm2.domains import Room
from study.on_smollm2.plan import BASELINE, METHODS, RATES, TUNED_AT, TUNING_SEED
from study.on_smollm2.runs import Items, Point, do, of_start
from study.preferences import wins
from study.rows import Row, Table

GATED = ("dpo", "sparsepo")  # whose policies the capability part measures


def outcomes(room_name: str, items: Items, start: Items) -> list[float]:
    """The primary outcome of every sample: P(positive), or whether it beats the start's sample."""
    rewards = torch.tensor(items["reward"])
    if room_name == "sentiment":
        return [float(value) for value in torch.sigmoid(rewards)]
    return [float(value) for value in wins(rewards, torch.tensor(start["reward"]))]


def row_of(room_name: str, items: Items, start: Items) -> dict[str, float]:
    """Means and standard errors of a CSV row; those of several draws per prompt are too small."""
    values = {"outcome": outcomes(room_name, items, start), "kl": items["kl"], "length": items["length"]}
    if "check" in items:
        values["check"] = torch.sigmoid(torch.tensor(items["check"])).tolist()
    row: dict[str, float] = {}
    for name, column in values.items():
        row[name], row[f"{name}_error"] = mean_and_error(torch.tensor(column))
    return row


def rows(
    room: Room, point: Point, found: Mapping[int, Mapping[str, Items]], split: str
) -> list[dict[str, Any]]:
    """A row per stop."""
    about = {"domain": room.name, "method": point.method, "beta": point.beta, "seed": point.seed}
    about |= {"rate": point.rate, "tried": json.dumps(dict(point.tried)), "run": point.name}
    start = of_start(room, split, point.seed)
    return [{**about, "step": step, **row_of(room.name, at[split], start)} for step, at in found.items()]


def best_setting(some: Sequence[Row], budget: float, at_start: float) -> Setting:
    """The setting whose validation outcome within the budget is highest."""
    groups = itertools.groupby(some, key=lambda row: (row["rate"], row["tried"]))
    best: tuple[float, Setting] | None = None
    for (rate, tried), members in groups:
        path = [Spot(float(row["kl"]), float(row["outcome"])) for row in members]
        value = within([Spot(0.0, at_start), *path], budget)
        if best is None or value > best[0]:
            best = (value, Setting(float(rate), json.loads(tried)))
    assert best is not None  # a method is tried with at least one setting
    return best[1]


def at_start(room: Room, split: str, seed: int) -> float:
    """Outcome of the start itself."""
    items = of_start(room, split, seed)
    values = outcomes(room.name, items, items)
    return math.fsum(values) / len(values)


def tune(room: Room, table: Table) -> dict[str, Setting]:
    """Rate by the baseline, anchors by their own method, on validation prompts with a seed of their own."""
    settings: dict[str, Setting] = {}
    for name in sorted(room.scale.methods, key=lambda name: name != BASELINE):
        rates = RATES if name == BASELINE else (settings[BASELINE].rate,)
        options = [Setting(rate, tried) for tried in METHODS[name].tried for rate in rates]
        if len(options) > 1:
            for setting in options:
                point = Point(name, TUNED_AT, TUNING_SEED, setting.rate, setting.tried)
                if not table.has(domain=room.name, run=point.name):
                    found = do(room, point, ("validation",), keep=False)
                    table.add(rows(room, point, found, "validation"))
                    print(f"tuned {point.name}", flush=True)
            mine = [row for row in table.rows if (row["domain"], row["method"]) == (room.name, name)]
            first = at_start(room, "validation", TUNING_SEED)
            settings[name] = best_setting(mine, room.scale.budgets[-1], first)
        else:
            settings[name] = options[0]
    return settings


def sweep(room: Room, settings: Mapping[str, Setting], validation: Table, test: Table) -> None:
    """Validation rows and test rows go to different files: what chooses never reads the second one."""
    for seed, beta, name in itertools.product(room.scale.seeds, room.scale.betas, room.scale.methods):
        point = Point(name, beta, seed, settings[name].rate, settings[name].tried)
        key = {"domain": room.name, "run": point.name}
        if validation.has(**key) and test.has(**key):
            continue
        found = do(room, point, ("validation", "test"), keep=name in GATED and seed == room.scale.seeds[0])
        if not validation.has(**key):
            validation.add(rows(room, point, found, "validation"))
        if not test.has(**key):
            test.add(rows(room, point, found, "test"))
        print(f"{room.name} {point.name}: {test.rows[-1]['seconds']} s", flush=True)


def items_of(work: Path, run: str, split: str, steps: Sequence[int]) -> list[Items]:
    """Items of a run's stops."""
    return [json.loads((work / "items" / f"{run}-{split}-{step}.json").read_text()) for step in steps]
