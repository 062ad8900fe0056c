"""Axes on which every line can be read: log scales where few lines flatten the rest, numbers at the ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sparsepo_plugin.report.plots import style

# The lines' common range over that of the less moving half of them, from which on they count as flattened.
_FLATTENED = 8.0
_GAP = 0.045  # between two numbers, as a share of the axis


def flattened(lines: Sequence[Sequence[float]]) -> bool:
    """Whether on one linear axis half of the lines would be next to straight."""
    spans = sorted(span for line in lines if (span := max(line) - min(line)) > 0)
    if len(spans) < 2:
        return False
    whole = max(map(max, lines)) - min(map(min, lines))
    return whole > _FLATTENED * spans[(len(spans) - 1) // 2]


def choose(axis: Any, lines: Sequence[Sequence[float]]) -> None:
    """A logarithmic axis for lines that a linear one would flatten; linear around 0 where some reach it."""
    axis.ticklabel_format(axis="y", useOffset=False)
    if not flattened(lines):
        return
    sizes = sorted(abs(value) for line in lines for value in line if value)
    if min(map(min, lines)) > 0:
        if sizes[-1] < 10 * sizes[0]:
            return
        axis.set_yscale("log")
    else:
        axis.set_yscale("symlog", linthresh=10 ** math.floor(math.log10(sizes[len(sizes) // 4])))
    axis.set_ylabel(f"{axis.get_ylabel()}, log scale")


def number_ends(axis: Any, ends: dict[int, tuple[float, float]]) -> None:
    """Write every line's number behind its end, moved up or down where two would touch.

    Args:
      axis: where the lines are.
      ends: last step and value by the line's place, from 0.
    """
    axis.autoscale_view()
    to_share = axis.transScale + axis.transLimits
    heights = {number: float(to_share.transform(end)[1]) for number, end in ends.items()}
    order = sorted(heights, key=lambda number: heights[number])
    placed: dict[int, float] = {}
    floor = -math.inf
    for number in order:
        placed[number] = floor = max(heights[number], floor + _GAP)
    # What was pushed above the axis is pushed back, from the top.
    ceiling = max(1.0, _GAP * (len(order) - 1)) + _GAP
    for number in reversed(order):
        placed[number] = ceiling = min(placed[number], ceiling - _GAP)
    for number, height in placed.items():
        colour = style.look(number).colour
        axis.annotate(
            str(number + 1), ends[number], xytext=(1.015, height), textcoords="axes fraction", fontsize=6.5,
            va="center", color=colour, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.3, "color": colour, "alpha": 0.5},
        )  # fmt: skip
