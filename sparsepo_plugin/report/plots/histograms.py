"""Mask histograms over training: a heat map of every group, a column per evaluation."""

from __future__ import annotations

from typing import Any, NamedTuple

from sparsepo_plugin.report.plots import style
from sparsepo_plugin.report.plots.groups import Group

NAME = "mask_histogram"
_MASKS = {"reward_mask": "reward mask", "kl_mask": "KL mask"}
# More groups than this are not readable in one figure.
_ROWS = 6
_NONE = 1e-9


class Heat(NamedTuple):
    """Shares of tokens, [bins][evaluations]; bin 0 is exactly 0, bin 1 below the first edge."""

    steps: list[int]
    edges: list[float]
    shares: list[list[float]]


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
    """A row per group, a panel per mask; None where no run recorded any."""
    recorded = [(members, {mask: heat(members, mask) for mask in _MASKS}) for members in groups]
    recorded = [(members, heats) for members, heats in recorded if any(heats.values())][:_ROWS]
    if not recorded:
        return None
    masks = [mask for mask in _MASKS if any(heats[mask] for _, heats in recorded)]
    top = max(v for _, heats in recorded for one in heats.values() if one for row in one.shares for v in row)
    made, axes = style.grid(len(recorded), len(masks))
    image = None
    for row, (members, heats) in zip(axes, recorded):
        for axis, mask in zip(row, masks):
            axis.set_title(f"{members.label}: {_MASKS[mask]}", fontsize=9)
            if (one := heats[mask]) is not None:
                image = _draw_one(axis, one, top)
            else:
                axis.set_axis_off()
                axis.text(0.5, 0.5, "has none", ha="center", transform=axis.transAxes)
    bar = made.colorbar(image, ax=[axis for row in axes for axis in row], shrink=0.8)
    bar.set_label("share of tokens (white: none)")
    return made


def _draw_one(axis: Any, one: Heat, top: float) -> Any:
    matplotlib = style.library()
    # Few tokens count too: the square root shows small shares, and white is none at all.
    colours = matplotlib.colormaps["viridis_r"].with_extremes(under="white")
    norm = matplotlib.colors.PowerNorm(0.5, vmin=_NONE, vmax=top)
    image = axis.imshow(
        one.shares, origin="lower", aspect="auto", cmap=colours, norm=norm, interpolation="nearest"
    )
    axis.grid(visible=False)
    kept = list(range(0, len(one.steps), max(1, len(one.steps) // 6)))
    axis.set_xticks(kept, [str(one.steps[bin_number]) for bin_number in kept])
    # Bin 2 begins at the first edge, whose own label would touch that of 0.
    edges = list(enumerate(one.edges))[1:]
    decades = [(bin_number + 1.5, f"{edge:g}") for bin_number, edge in edges if _is_decade(edge)]
    axis.set_yticks(
        [0, *(bin_number for bin_number, _ in decades)], ["exactly 0", *(text for _, text in decades)]
    )
    axis.set_xlabel("training step of the evaluation")
    axis.set_ylabel("mask value (no unit)")
    return image


def _is_decade(edge: float) -> bool:
    return f"{edge:.0e}".startswith("1e") and abs(edge - float(f"{edge:.0e}")) < 1e-6 * edge
