"""Trainings side by side: which are seeds of one configuration, and what each is called."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.run_folder import configuration, histograms, metrics

# What differs between runs of one configuration: the seed, and where a run writes and reports to.
SEED = "train.seed"
_PLACES = ("ckpt.output_dir", "ckpt.path", "config", "logger.", "local_rank")
_DIFFERENCES_SHOWN = 3


class Run(NamedTuple):
    """What one training left."""

    folder: Path
    metrics: dict[str, list[dict[str, Any]]]
    histograms: list[dict[str, Any]]
    configuration: dict[str, Any]


class Curve(NamedTuple):
    """A metric over steps: mean of the group's runs at every step that all have, and its standard error."""

    steps: list[int]
    mean: list[float]
    error: list[float]


class Group(NamedTuple):
    """Runs of one configuration, which differ in their seed only."""

    label: str
    runs: list[Run]

    def curve(self, split: str, metric: str, window: int = 1) -> Curve:
        """The metric, averaged over the last ``window`` steps; empty where no run has it."""
        by_run = [_smooth(_values(run.metrics[split], metric), window) for run in self.runs]
        steps = sorted(set.intersection(*map(set, by_run)))
        columns = [[values[step] for values in by_run] for step in steps]
        return Curve(steps, list(map(mean_of, columns)), list(map(standard_error, columns)))

    def by_seed(self, split: str, metric: str) -> dict[int, dict[int, float]]:
        """The metric of every run by its seed, then by step; empty where seeds are unknown or come twice."""
        seeds = [seed for run in self.runs if isinstance(seed := run.configuration.get(SEED), int)]
        if len(set(seeds)) < len(self.runs):
            return {}
        return {seed: _values(run.metrics[split], metric) for seed, run in zip(seeds, self.runs)}


def _values(rows: list[dict[str, Any]], metric: str) -> dict[int, float]:
    return {row["step"]: value for row in rows if (value := number_in(row, metric)) is not None}


def number_in(row: dict[str, Any], metric: str) -> float | None:
    """The metric of a row; None where it is no finite number."""
    value = row.get(metric)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return float(value)


def _smooth(values: dict[int, float], window: int) -> dict[int, float]:
    """Mean over the last ``window`` steps, from the first step that has so many."""
    if window == 1:
        return values
    steps, sums = list(values), [0.0, *itertools.accumulate(values.values())]
    return {steps[end - 1]: (sums[end] - sums[end - window]) / window for end in range(window, len(sums))}


def mean_of(values: list[float]) -> float:
    """Arithmetic mean."""
    return math.fsum(values) / len(values)


def standard_error(values: list[float]) -> float:
    """Of the mean of values; 0 for one."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def read_runs(names: list[str]) -> list[Run]:
    """Read runs in the given order.

    Raises:
      UserError: a folder is no run, or named twice.
    """
    runs: list[Run] = []
    for name in names:
        folder = Path(name).parent if Path(name).name == metrics.FILE else Path(name)
        if any(run.folder.resolve() == folder.resolve() for run in runs):
            raise UserError(f"run {folder}: got it twice, expected every run once; name it once")
        runs.append(Run(folder, metrics.read(folder), histograms.read(folder), configuration.read(folder)))
    return runs


def group(runs: list[Run]) -> list[Group]:
    """Put runs together that differ in the seed only; a run without configuration stays alone."""
    alike: dict[str, list[Run]] = {}
    for run in runs:
        same = {key: value for key, value in identity(run.configuration).items() if key != SEED}
        key = json.dumps(same, sort_keys=True, default=str) if same else str(run.folder)
        alike.setdefault(key, []).append(run)
    groups = list(alike.values())
    return [Group(label, members) for label, members in zip(_labels(groups), groups)]


def identity(effective: dict[str, Any]) -> dict[str, Any]:
    """What of an effective configuration decides the result: all but places to write and report to."""
    return {key: value for key, value in effective.items() if not key.startswith(_PLACES)}


def _labels(groups: list[list[Run]]) -> list[str]:
    """What tells the groups apart, in as few words as that takes; folder names where it takes too many."""
    configurations = [identity(members[0].configuration) for members in groups]
    keys = dict.fromkeys(key for settings in configurations for key in settings)
    different = [key for key in keys if key != SEED and _differs(key, configurations)]
    different.sort(key=lambda key: (key != "loss", key != "model.beta", key))
    # Options of a loss differ trivially from those of another loss, which has none of them.
    losses = {settings.get("loss") for settings in configurations}
    if len(losses) > 1:
        different = [key for key in different if not only_of(key, configurations)]
    names = names_of([members[0].folder for members in groups])
    usable = 0 < len(different) <= _DIFFERENCES_SHOWN and all(configurations)
    if usable:
        described = [_describe(settings, different) for settings in configurations]
        if len(set(described)) == len(groups):
            names = described
    return [_count(name, members) for name, members in zip(names, groups)]


def names_of(folders: list[Path]) -> list[str]:
    """Folder names, with as many folders above as tell them apart."""
    for depth in range(1, max(len(folder.absolute().parts) for folder in folders) + 1):
        names = ["/".join(folder.absolute().parts[-depth:]) for folder in folders]
        if max(Counter(names).values()) == 1:
            break
    return names


def _differs(key: str, configurations: list[dict[str, Any]]) -> bool:
    return len({json.dumps(item.get(key), default=str) for item in configurations}) > 1


def only_of(key: str, configurations: list[dict[str, Any]]) -> bool:
    """Whether a setting is an option of one loss, which runs of the others do not have."""
    holders = [item for item in configurations if key in item]
    belongs = {item.get("loss") for item in holders} == {key.split(".")[0]}
    return belongs and len(holders) < len(configurations) and not _differs(key, holders)


def _describe(settings: dict[str, Any], keys: list[str]) -> str:
    words = []
    for key in keys:
        value = settings.get(key)
        if value is not None:
            words.append(str(value) if key == "loss" else f"{key.split('.')[-1]} {value}")
    return ", ".join(words)


def _count(name: str, members: list[Run]) -> str:
    if len(members) == 1:
        return name
    seeds = {run.configuration.get(SEED) for run in members}
    return f"{name} ({len(members)} {'seeds' if len(seeds) == len(members) else 'runs'})"
