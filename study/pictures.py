"""Plots of the study, from the CSV files alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsepo_plugin.report.plots import style
from study.domain import DOMAINS
from study.methods import BASELINE, METHODS
from study.rows import Row, number

COLUMNS = 4


def mean(rows: Sequence[Row], column: str) -> float:
    """Mean of a column."""
    return math.fsum(float(row[column]) for row in rows) / len(rows)


def lines(rows: Sequence[Row]) -> dict[str, list[list[tuple[float, float]]]]:
    """Per method a line per beta: (KL, reward) means over seeds at every stop, on test prompts."""
    groups: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row["split"] == "test":
            groups[row["method"], row["beta"], int(row["step"])].append(row)
    found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for (method, beta, _), members in sorted(groups.items(), key=lambda item: item[0][2]):
        found[method][beta].append((mean(members, "kl"), mean(members, "reward")))
    return {method: list(betas.values()) for method, betas in found.items()}


def frontier(rows: Sequence[Row], references: Sequence[Row], most: float) -> Any:
    """A panel per method over DPO's lines: reward against KL, a line per beta."""
    drawn = lines(rows)
    start = mean([row for row in references if row["split"] == "test"], "reward")
    names = [name for name in METHODS if name in drawn and name != BASELINE]
    count = math.ceil(len(names) / COLUMNS)
    made, axes = style.grid(count, COLUMNS)
    made.set_size_inches(3.1 * COLUMNS, 2.5 * count)
    flat = [axis for row in axes for axis in row]
    for axis, name in zip(flat, names):
        for method, colour in ((BASELINE, "#999999"), (name, style.COLOURS[0])):
            for place, line in enumerate(drawn.get(method, [])):
                points = [(0.0, start), *line]
                label = {0: f"{method}"}.get(place)
                axis.plot(*zip(*points), color=colour, marker=style.MARKERS[place], markersize=3, label=label)
        axis.set_title(name, fontsize=9)
        axis.set_xlim(0, most)
        axis.set_xlabel("KL(policy, reference) of samples (nats)", fontsize=7)
        axis.set_ylabel("P(positive), reward", fontsize=7)
    for axis in flat[len(names) :]:
        axis.set_axis_off()
    top = max(r for betas in drawn.values() for line in betas for kl, r in line if kl <= most)
    for axis in flat[: len(names)]:
        axis.set_ylim(start - 0.01, top + 0.01)
    return made


def budgets(rows: Sequence[Row]) -> Any:
    """A panel per budget: reward on test prompts, a dot with its interval over seeds per method."""
    values = list(dict.fromkeys(row["budget"] for row in rows))
    made, axes = style.figure(len(values))
    made.set_size_inches(1.6 + 3.2 * len(values), 4.2)
    for place, (axis, budget) in enumerate(zip(axes, values)):
        some = [row for row in rows if row["budget"] == budget]
        _dots(axis, [row["method"] for row in some], some, "reward", show_names=place == 0)
        base = next(row for row in some if row["method"] == BASELINE)
        axis.axvline(float(base["reward"]), color="#999999", linewidth=0.8)
        axis.set_title(f"within {float(budget):g} nats", fontsize=9)
        axis.set_xlabel("P(positive) on test prompts")
    return made


def _dots(axis: Any, names: list[str], rows: Sequence[Row], column: str, *, show_names: bool) -> None:
    """One dot with a 95 % interval per row, the first row on top."""
    for place, row in enumerate(rows):
        value = float(row[column])
        low, high = (number(row, f"{column}_{end}") for end in ("low", "high"))
        if low is not None and high is not None:
            axis.plot([low, high], [place, place], color=style.COLOURS[0], linewidth=1)
        axis.plot([value], [place], color=style.COLOURS[0], marker="o", markersize=4)
    axis.set_yticks(range(len(names)), names if show_names else [""] * len(names), fontsize=8)
    axis.invert_yaxis()


def weights(rows: Sequence[Row], by: str = "beta") -> Any:
    """Zeros against beta (or step), and how well weights find the words that the reward weighs."""
    made, axes = style.figure(2)
    names = [name for name in METHODS if METHODS[name].weighted and any(r["method"] == name for r in rows)]
    for place, name in enumerate(names):
        looks = style.look(place)
        for axis, column in zip(axes, ("sparsity", "mask_auc")):
            some = [row for row in rows if row["method"] == name and number(row, column) is not None]
            some.sort(key=lambda row: float(row[by]))
            xs, ys = [float(row[by]) for row in some], [float(row[column]) for row in some]
            axis.plot(xs, ys, color=looks.colour, marker=looks.marker, markersize=4, label=name)
            ends = [(number(row, f"{column}_low"), number(row, f"{column}_high")) for row in some]
            if all(low is not None for low, _ in ends):
                axis.fill_between(xs, *zip(*ends), color=looks.colour, alpha=0.12, linewidth=0)
    base = sorted((r for r in rows if r["method"] == BASELINE), key=lambda row: float(row[by]))
    axes[1].plot(
        [float(r[by]) for r in base], [float(r["ratio_auc"]) for r in base], color="#999999",
        linestyle="--", label="absolute log-ratio of dpo",
    )  # fmt: skip
    axes[1].axhline(0.5, color="#999999", linewidth=0.8, label="chance")
    axes[0].set_ylabel("reward mask: share of tokens at 0")
    axes[1].set_ylabel("AUC of the reward's words")
    axes[0].set_ylim(-0.02, 1.02)
    for axis in axes:
        axis.set_xscale("log")
        ticks = sorted({float(row[by]) for row in rows if row["method"] in names})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel(by)
    style.legend(made, axes)
    return made


def domain(sweep: Sequence[Row], test: Sequence[Row], most: float) -> Any:
    """Gain in reward against KL on validation prompts, and win rates over temperature on test prompts."""
    made, axes = style.figure(3)
    for place, name in enumerate(dict.fromkeys(row["method"] for row in sweep)):
        looks = style.look(place)
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in sweep:
            if row["method"] == name:
                groups[row["beta"], row["step"]].append(row)
        points = [(mean(members, "kl"), mean(members, "gain")) for members in groups.values()]
        xs, ys = zip(*(point for point in points if point[0] <= most))
        axes[0].plot(xs, ys, color=looks.colour, marker=looks.marker, markersize=4, linestyle="", label=name)
        for axis, quantity in zip(axes[1:], ("win over the reference", "win over dpo")):
            some = [r for r in test if r["method"] == name and r["quantity"] == quantity]
            some = [r for r in some if r["budget"] == test[-1]["budget"]]
            if some:
                temperatures = [float(r["temperature"]) + 0.012 * place for r in some]
                values = [float(r["mean"]) for r in some]
                reach = [[float(r["mean"]) - float(r["low"]) for r in some],
                         [float(r["high"]) - float(r["mean"]) for r in some]]  # fmt: skip
                axis.errorbar(
                    temperatures, values, reach, color=looks.colour, marker=looks.marker, markersize=4,
                    linewidth=0.9, label=name,
                )  # fmt: skip
            axis.axhline(0.5, color="#999999", linewidth=0.8)
            axis.set_xlabel("temperature")
            axis.set_ylabel(f"{quantity} (share)")
    axes[0].set_xlabel("KL(policy, reference) of samples (nats)")
    axes[0].set_ylabel("gain in reward on validation prompts")
    style.legend(made, axes)
    return made


def draw(out: Path, tables: dict[str, list[Row]], most: float) -> list[Path]:
    """Write every plot whose rows are there."""
    written: list[Path] = []
    if tables["sentiment"]:
        written += style.save(
            frontier(tables["sentiment"], tables["sentiment_reference"], most), out, "sentiment"
        )
        written += style.save(budgets(tables["sentiment_frontier"]), out, "sentiment_budgets")
        written += style.save(weights(tables["sentiment_weights"]), out, "sentiment_weights")
    if tables["sentiment_longer_weights"]:
        made = weights(tables["sentiment_longer_weights"], "step")
        written += style.save(made, out, "sentiment_longer")
    for name in DOMAINS:
        if tables[f"{name}_test"]:
            written += style.save(domain(tables[name], tables[f"{name}_test"], most), out, name)
    return written
