"""Draw the CSV of `make bench`: ratios to OpenRLHF's DPO of time and memory, and the sweeps.

python -m benchmarks.step.plot docs/bench.csv docs/bench.png
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.step.rows import BASE, FULL, OURS

Row = dict[str, str]
COLOURS = {BASE: "#555555", FULL: "#b5651d", OURS: "#0b6e99", "sparsepo, two rows": "#7fb7cc"}


def read(path: Path) -> list[Row]:
    """Rows of the newest measurement of every workload, vocabulary, batch and row."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    keys = ("device", "threads", "model", "workload", "vocabulary", "pairs", "micro", "row")
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def bars(axes: Any, rows: list[Row], title: str) -> None:
    """Time ratios with their spread, and the memory of head and loss, one bar per row."""
    names = [row["row"] for row in rows][::-1]
    place = range(len(names))
    time = [float(row["cpu_ratio"]) for row in rows][::-1]
    spread = [
        [value - float(row["cpu_least"]) for value, row in zip(time, rows[::-1])],
        [float(row["cpu_most"]) - value for value, row in zip(time, rows[::-1])],
    ]
    upper, lower = ([y + shift for y in place] for shift in (0.2, -0.2))
    axes.barh(upper, time, 0.38, xerr=spread, color="#0b6e99", label="processor time of a step")
    memory = [float(row["loss_ratio"] or "nan") for row in rows][::-1]
    axes.barh(lower, memory, 0.38, color="#d9a441", label="memory of head and loss")
    axes.axvline(1, color="#555555", linewidth=0.8)
    axes.set_yticks(list(place), names)
    axes.set_title(title)
    axes.set_xlabel("ratio to OpenRLHF's DPO")


def curve(axes: Any, rows: list[Row], x: str, title: str) -> None:
    """Processor time of a step over what is swept; an empty place where fewer than two values were run."""
    if len({row[x] for row in rows}) < 2:
        axes.set_visible(False)
        return
    for name in COLOURS:
        found = sorted((float(row[x]), float(row["cpu_s"])) for row in rows if row["row"] == name)
        if found:
            axes.plot(*zip(*found), "o-", color=COLOURS[name], label=name)
    axes.set_title(title)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("processor seconds a step")


def _swept(row: Row) -> Row:
    """A row of made pairs with length and prompt share (in %) as entries of their own."""
    words = row["workload"].removesuffix("%").split()
    return {**row, "length": words[1], "share": words[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("png", type=Path)
    arguments = parser.parse_args()
    rows = [row for row in read(arguments.csv) if row["device"].startswith("CPU")]
    figure, axes = plt.subplots(2, 3, figsize=(16, 8.5), layout="constrained")
    for place, name in zip(axes[:, 0], ("tldr", "hh")):
        bars(place, [row for row in rows if row["workload"] == name and row["pairs"] == "4"], name)
    axes[0, 0].legend(loc="lower right")
    made = [_swept(row) for row in rows if row["workload"].startswith("made")]
    usual = {"vocabulary": "32000", "length": "256", "share": "50", "pairs": "2"}
    for place, x, changed, title in (
        (axes[0, 1], "vocabulary", {}, "vocabulary"),
        (axes[0, 2], "length", {}, "tokens of a row, half of it prompt"),
        (axes[1, 1], "share", {"length": "512"}, "prompt's share of a row, %"),
        (axes[1, 2], "pairs", {}, "pairs a step"),
    ):
        fixed = {key: value for key, value in {**usual, **changed}.items() if key != x}
        curve(place, [row for row in made if fixed.items() <= row.items()], x, title)
    handles, labels = axes[0, 1].get_legend_handles_labels()
    axes[0, 1].legend(handles, labels)
    figure.savefig(arguments.png, dpi=80)


if __name__ == "__main__":
    main()
