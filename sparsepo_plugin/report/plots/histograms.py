"""Mask histograms: a heat map of every group over training, or of many groups their last evaluations."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sparsepo_plugin.report.plots import style
from sparsepo_plugin.report.plots.groups import Group

NAME = "mask_histogram"
_MASKS = {"reward_mask": "reward mask", "kl_mask": "KL mask"}
_NONE = 1e-9
_STEPS_NAMED = 6
_EMPTY = "has none"


class Heat(NamedTuple):
    """Shares of tokens, [bins][columns]; bin 0 is exactly 0, bin 1 below the first edge.

    ``columns`` are steps of evaluations, or numbers of groups.
    """

    columns: list[int]
    edges: list[float]
    shares: list[list[float]]


# Rows of panels with their titles.
Panels = list[list[tuple[str, Heat | None]]]


def heat(members: Group, mask: str) -> Heat | None:
    """Sum the histograms of a group's runs at every step that all have; None where one has none."""
    by_run = [{row["step"]: row for row in run.histograms if row[mask] is not None} for run in members.runs]
    steps = sorted(set.intersection(*map(set, by_run))) if by_run else []
    if not steps:
        return None
    edges = by_run[0][steps[0]]["edges"]
    columns = []
    for step in steps:
        rows = [rows[step][mask] for rows in by_run]
        counts = [sum(row["zeros"] for row in rows), *map(sum, zip(*(row["counts"] for row in rows)))]
        columns.append([count / max(1, sum(counts)) for count in counts])
    return Heat(steps, edges, [list(row) for row in zip(*columns)])


def draw(groups: list[Group]) -> Any:
    """A panel per group and mask, or per mask where the groups are many; None where no run recorded any."""
    panels, x, names = _panels(groups)
    return _draw_panels(panels, x, names, _top(panels)) if panels else None


def drawn_alone(groups: list[Group]) -> Iterator[tuple[str, bytes]]:
    """Every panel of ``draw`` as an SVG of its own, with its title."""
    panels, x, names = _panels(groups)
    for title, one in (panel for row in panels for panel in row):
        if one is not None:
            made = _draw_panels([[(title, one)]], x, names, _top(panels))
            yield title, style.drawn(made, "svg", transparent=True)


def _panels(groups: list[Group]) -> tuple[Panels, str, list[str]]:
    """The panels, the name of their x axis, and what its numbers stand for."""
    recorded = {
        number: heats
        for number, members in enumerate(groups, 1)
        if any((heats := {mask: heat(members, mask) for mask in _MASKS}).values())
    }
    masks = [mask for mask in _MASKS if any(heats[mask] for heats in recorded.values())]
    if style.is_many(len(recorded)):
        panels = [[(_MASKS[mask], last({n: heats[mask] for n, heats in recorded.items()}))] for mask in masks]
        names = [f"{number}: {groups[number - 1].label}" for number in recorded]
        return panels, "configuration (last evaluation)", names
    panels = [
        [(f"{groups[number - 1].label}: {_MASKS[mask]}", heats[mask]) for mask in masks]
        for number, heats in recorded.items()
    ]
    return panels, "training step of the evaluation", []


def last(heats: dict[int, Heat | None]) -> Heat | None:
    """The last evaluation of every group as a column; groups with other bins are left out."""
    have = {number: one for number, one in heats.items() if one}
    edges = next(one.edges for one in have.values())
    columns = {number: [row[-1] for row in one.shares] for number, one in have.items() if one.edges == edges}
    return Heat(list(columns), edges, [list(row) for row in zip(*columns.values())])


def _top(panels: Panels) -> float:
    return max(v for row in panels for _, one in row if one for shares in one.shares for v in shares)


def _draw_panels(panels: Panels, x: str, names: Sequence[str], top: float) -> Any:
    made, axes = style.grid(len(panels), len(panels[0]))
    image = None
    for axis_row, row in zip(axes, panels):
        for axis, (title, one) in zip(axis_row, row):
            axis.set_title(textwrap.fill(title, 56), fontsize=9)
            if one is None:
                axis.set_axis_off()
                axis.text(0.5, 0.5, _EMPTY, ha="center", transform=axis.transAxes)
            else:
                image = _draw_one(axis, one, top, len(names) or _STEPS_NAMED)
                axis.set_xlabel(x)
    for name in names:
        axes[0][0].plot([], [], " ", label=name)
    style.legend(made, [axes[0][0]])
    bar = made.colorbar(image, ax=[axis for row in axes for axis in row], shrink=0.8)
    bar.set_label("share of tokens (blank: none)")
    return made


def _draw_one(axis: Any, one: Heat, top: float, most: int) -> Any:
    matplotlib = style.library()
    # Few tokens count too: the square root shows small shares, and white is none at all.
    colours = matplotlib.colormaps["viridis_r"].with_extremes(under="white")
    norm = matplotlib.colors.PowerNorm(0.5, vmin=_NONE, vmax=top)
    image = axis.imshow(
        one.shares, origin="lower", aspect="auto", cmap=colours, norm=norm, interpolation="nearest"
    )
    axis.grid(visible=False)
    kept = list(range(0, len(one.columns), max(1, len(one.columns) // most)))
    axis.set_xticks(kept, [str(one.columns[column]) for column in kept])
    # Bin 2 begins at the first edge, whose own label would touch that of 0.
    edges = list(enumerate(one.edges))[1:]
    decades = [(bin_number + 1.5, f"{edge:g}") for bin_number, edge in edges if _is_decade(edge)]
    axis.set_yticks(
        [0, *(bin_number for bin_number, _ in decades)], ["exactly 0", *(text for _, text in decades)]
    )
    axis.set_ylabel("mask value (no unit)")
    return image


def _is_decade(edge: float) -> bool:
    return f"{edge:.0e}".startswith("1e") and abs(edge - float(f"{edge:.0e}")) < 1e-6 * edge
