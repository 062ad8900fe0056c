"""Metrics over training, runs over each other, seeds of one configuration as mean and standard error."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_plugin import files
from sparsepo_plugin.report.plots import histograms, paired, scales, style
from sparsepo_plugin.report.plots.groups import Curve, Group, group, read_runs


class Panel(NamedTuple):
    """One metric: its name in metrics.jsonl, and what the axis says."""

    metric: str
    label: str


FIGURES: dict[str, tuple[Panel, ...]] = {
    "loss": (Panel("loss", "loss (nats; squared for ipo)"),),
    "accuracy": (
        Panel("accuracy", "reward accuracy (share of pairs)"),
        Panel("accuracy_unmasked", "accuracy, masks removed (share of pairs)"),
    ),
    "margin": (
        Panel("margin", "margin = logit of the loss (beta x nats)"),
        Panel("margin_unmasked", "margin, masks removed (beta x nats)"),
    ),
    "sequence_kl": (
        Panel("chosen_sequence_kl", "KL(reference, policy), chosen (nats)"),
        Panel("rejected_sequence_kl", "KL(reference, policy), rejected (nats)"),
    ),
    "sparsity": (
        Panel("reward_mask_sparsity", "reward mask: share of tokens at 0"),
        Panel("kl_mask_sparsity", "KL mask: share of tokens at 0"),
    ),
    "mask_mean": (
        Panel("reward_mask_mean", "reward mask: mean over tokens"),
        Panel("kl_mask_mean", "KL mask: mean over tokens"),
    ),
}
_SHARES = ("accuracy", "sparsity")
# Losses have units of their own, so one that would flatten the others gets a panel, not a common log scale.
_OWN_UNIT = "loss"
# A training curve is averaged over this share of its steps, because single batches hide it.
_SMOOTHING = 40
_POINTS = 200
_COLUMNS = 3
_LABEL = 32  # characters of an axis


class Cell(NamedTuple):
    """One pair of axes: a metric of some of the groups, by their numbers; title where it is one loss's."""

    figure: str
    panel: Panel
    groups: dict[int, Group]
    title: str


def plot(names: list[str], output: str) -> None:
    """Write the figures of runs with a table beside each, and say which.

    Args:
      names: output folders of trainings.
      output: folder for the files; those written earlier are replaced.

    Raises:
      UserError: a run cannot be read, or the output is not ours to write.
    """
    folder = Path(output)
    style.check(folder, [*FIGURES, histograms.NAME])
    for name in FIGURES:
        for path, _, mark in _tables(folder, name, []):
            files.check(path, mark)
    groups, written = group(read_runs(names)), []
    for name, panels in FIGURES.items():
        if made := draw(name, panels, groups):
            written += style.save(made, folder, name)
        found = paired.rows([panel.metric for panel in panels], groups, window(groups))
        for path, text, mark in _tables(folder, name, found) if found else ():
            files.write(path, text.encode(), mark)
            written.append(path)
    if made := histograms.draw(groups):
        written += style.save(made, folder, histograms.NAME)
    same = [f"{metric} = {value:g}" for metric, value in constant(groups).items()]
    left_out = f"; not drawn, for it is constant: {', '.join(same)}" if same else ""
    print(f"{folder}: {', '.join(path.name for path in written)}{left_out}")


def _tables(folder: Path, name: str, found: list[paired.Row]) -> Iterator[tuple[Path, str, bytes]]:
    """Path, text and mark of a figure's tables: what tells ours from others' is their head."""
    yield folder / f"{name}.csv", paired.as_csv(found), ",".join(paired.Row._fields).encode()
    yield folder / f"{name}.md", paired.as_markdown(name, found), paired.HEADLINE.encode()


def draw(name: str, panels: Sequence[Panel], groups: list[Group]) -> Any:
    """One figure, or None where no run has any of its metrics, or none that varies."""
    drawn = cells(name, panels, groups)
    if not drawn:
        return None
    columns = min(len(drawn), _COLUMNS)
    made, rows = style.grid(-(-len(drawn) // columns), columns)
    axes = [axis for row in rows for axis in row]
    for axis, cell in zip(axes, drawn):
        draw_cell(axis, cell, groups)
    for axis in axes[len(drawn) :]:
        axis.set_axis_off()
    explain(axes[0], groups)
    style.legend(made, axes)
    return made


def drawn_alone(name: str, panels: Sequence[Panel], groups: list[Group]) -> Iterator[tuple[str, bytes]]:
    """Every pair of axes as a small SVG of its own, without legend, with what it shows."""
    for cell in cells(name, panels, groups):
        made, [axis] = style.figure(1)
        made.set_size_inches(4.8, 2.9)
        draw_cell(axis, cell, groups)
        yield f"{cell.panel.label} {cell.title}".strip(), style.drawn(made, "svg", transparent=True)


def legend_alone(groups: list[Group]) -> bytes:
    """The legend of ``drawn_alone`` as SVG."""
    made, [axis] = style.figure(1)
    made.set_size_inches(4.8, 0.1)
    explain(axis, groups)
    style.legend(made, [axis])
    axis.remove()
    return style.drawn(made, "svg", transparent=True)


def cells(name: str, panels: Sequence[Panel], groups: list[Group]) -> list[Cell]:
    """The axes of a figure: one per metric that varies; one per loss where one would flatten the others."""
    same, width, found = constant(groups), window(groups), []
    for panel in panels:
        lines = {number: _values(one, panel.metric, width) for number, one in enumerate(groups)}
        held = {number: groups[number] for number, values in lines.items() if values}
        if not held or panel.metric in same:
            continue
        by_loss: dict[str, dict[int, Group]] = {}
        for number, one in held.items():
            by_loss.setdefault(str(one.runs[0].configuration.get("loss")), {})[number] = one
        if name == _OWN_UNIT and scales.flattened([lines[number] for number in held]):
            found += [Cell(name, panel, members, loss) for loss, members in by_loss.items()]
        else:
            found.append(Cell(name, panel, held, ""))
    return found


def constant(groups: list[Group]) -> dict[str, float]:
    """Metrics whose curves, of all groups, are one value: they are no picture."""
    found = {}
    for panel in (panel for panels in FIGURES.values() for panel in panels):
        curves = [one.curve(split, panel.metric) for one in groups for split in ("train", "eval")]
        values = [value for curve in curves for value in curve.mean]
        is_line = any(len(curve.steps) > 1 for curve in curves)
        if is_line and max(values) - min(values) <= 1e-6 * max(1.0, abs(max(values))):
            found[panel.metric] = float(f"{values[0]:.6g}")
    return found


def window(groups: list[Group]) -> int:
    """Steps over which training curves are averaged: the same for all."""
    return max(1, max(len(run.metrics["train"]) for one in groups for run in one.runs) // _SMOOTHING)


def _values(members: Group, metric: str, width: int) -> list[float]:
    """What is drawn of a group."""
    return [*members.curve("eval", metric).mean, *members.curve("train", metric, width).mean]


def draw_cell(axis: Any, cell: Cell, groups: list[Group]) -> None:
    """Draw one pair of axes, without legend."""
    width, many = window(groups), style.is_many(len(groups))
    ends: dict[int, tuple[float, float]] = {}
    for number, members in cell.groups.items():
        held_out = members.curve("eval", cell.panel.metric)
        training = members.curve("train", cell.panel.metric, width)
        # Beyond the few, batches behind the held-out pairs' lines would only hide these.
        shown = [held_out] if many and held_out.steps else [training, held_out]
        for curve in shown:
            _draw_curve(axis, curve, style.look(number), is_training=curve is training)
        last = held_out if held_out.steps else training
        if len(members.runs) > 1:
            low, high = ([m + sign * e for m, e in zip(last.mean, last.error)] for sign in (-1, 1))
            axis.fill_between(last.steps, low, high, color=style.look(number).colour, alpha=0.18, linewidth=0)
        if last.steps:
            ends[number] = last.steps[-1], last.mean[-1]
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("training step")
    axis.set_ylabel(cell.panel.label)
    if cell.title:
        axis.set_title(cell.title, fontsize=9)
    if cell.figure in _SHARES:
        axis.set_ylim(-0.02, 1.02)
    else:
        scales.choose(axis, [_values(one, cell.panel.metric, width) for one in cell.groups.values()])
    axis.set_ylabel(textwrap.fill(axis.get_ylabel(), _LABEL))
    if many:
        scales.number_ends(axis, ends)


def _draw_curve(axis: Any, curve: Curve, looks: style.Look, *, is_training: bool) -> None:
    if not curve.steps:
        return
    every = max(1, len(curve.steps) // _POINTS) if is_training else 1
    steps, mean = curve.steps[::-every][::-1], curve.mean[::-every][::-1]
    if is_training:
        # A line of one step is invisible: a hollow marker is not.
        point = (
            {"marker": looks.marker, "markersize": 6, "markerfacecolor": "none"} if len(steps) == 1 else {}
        )
        axis.plot(steps, mean, color=looks.colour, linewidth=0.8, alpha=0.6, linestyle="--", **point)
    else:
        marks = {"marker": looks.marker, "markersize": 4, "markevery": max(1, len(steps) // 12)}
        axis.plot(steps, mean, color=looks.colour, **marks)


def explain(axis: Any, groups: list[Group]) -> None:
    """Legend entries: the groups, then what kinds of line there are."""
    many, width = style.is_many(len(groups)), window(groups)
    for number, members in enumerate(groups):
        looks = style.look(number)
        label = f"{number + 1}: {members.label}" if many else members.label
        axis.plot([], [], color=looks.colour, marker=looks.marker, markersize=4, label=label)
    runs = [run for members in groups for run in members.runs]
    mean = f", mean of {width} steps" if width > 1 else ""
    if any(run.metrics["eval"] for run in runs):
        axis.plot([], [], color="grey", marker="o", markersize=4, label="held-out pairs")
    if any(run.metrics["train"] for run in runs) and not (many and all(run.metrics["eval"] for run in runs)):
        axis.plot([], [], color="grey", linewidth=0.8, linestyle="--", label=f"training batches{mean}")
    if any(len(members.runs) > 1 for members in groups):
        error = "\u00b1 standard error over seeds"
        axis.fill_between([], [], [], color="grey", alpha=0.18, linewidth=0, label=error)
