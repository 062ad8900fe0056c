"""How every plot looks: colours that colour-blind readers tell apart, names with units, PNG and SVG."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_plugin import files
from sparsepo_plugin.errors import UserError

# Okabe and Ito's palette without the yellow, which a white page swallows. Markers repeat the distinction.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MARK = "sparsepo plot"
FORMATS = ("png", "svg")
_CHARACTER, _LINE = 0.075, 0.195  # a legend's character and line, inches
_SETTINGS = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 130,
    "font.size": 9,
    "grid.alpha": 0.3,
    "svg.fonttype": "none",
    "svg.hashsalt": "sparsepo",
}


class Look(NamedTuple):
    """What distinguishes a group in every plot."""

    colour: str
    marker: str


def look(number: int) -> Look:
    """The look of a group by its number; seven colours and eight markers make 56 of them."""
    return Look(COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])


def is_many(groups: int) -> bool:
    """Whether there are more groups than colours: then lines are numbered too."""
    return groups > len(COLOURS)


def library() -> Any:
    """matplotlib.figure, drawing without a display; pyplot, which keeps figures, is never loaded.

    Raises:
      UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError:
        raise UserError(
            'matplotlib is not installed: plots need it; run pip install "sparsepo[plot]"'
        ) from None
    return matplotlib


def figure(panels: int) -> tuple[Any, list[Any]]:
    """A figure with panels side by side, and its axes."""
    made, axes = grid(1, panels)
    made.set_size_inches(1.2 + 4.4 * panels, 3.6)
    return made, axes[0]


def grid(rows: int, columns: int) -> tuple[Any, list[list[Any]]]:
    """A figure with rows of panels, and its axes."""
    matplotlib = library()
    with matplotlib.rc_context(_SETTINGS):
        made = matplotlib.figure.Figure(figsize=(1.6 + 4.4 * columns, 0.6 + 2.8 * rows), layout="constrained")
        axes = made.subplots(rows, columns, squeeze=False)
    return made, [list(row) for row in axes]


def legend(made: Any, axes: list[Any]) -> None:
    """One legend for all panels, below them, where it hides nothing; the figure grows by its height."""
    handles: dict[str, Any] = {}
    for axis in axes:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels())}
    if not handles:
        return
    width, height = made.get_size_inches()
    labels = [textwrap.fill(label, int((width - 0.8) / _CHARACTER)) for label in handles]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    columns = min(len(labels), max(1, int(width / (0.6 + _CHARACTER * longest))))
    lines = -(-sum(label.count("\n") + 1 for label in labels) // columns)
    made.set_size_inches(width, height + 0.25 + _LINE * lines)
    made.legend(handles.values(), labels, loc="outside lower center", ncols=columns, frameon=False)


def targets(folder: Path, name: str) -> list[Path]:
    """The files of a figure."""
    return [folder / f"{name}.{kind}" for kind in FORMATS]


def check(folder: Path, names: list[str]) -> None:
    """Refuse a folder in which a figure would replace somebody else's file.

    Raises:
      UserError: as files.check.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: got a file, expected a folder for PNG and SVG files; choose another name")
    for name in names:
        for path in targets(folder, name):
            files.check(path, MARK.encode())


def drawn(made: Any, kind: str, *, transparent: bool = False) -> bytes:
    """A figure as PNG or SVG, the same bytes for the same figure."""
    content = io.BytesIO()
    marked = {"Software": MARK} if kind == "png" else {"Creator": MARK, "Date": None}
    with library().rc_context(_SETTINGS):
        made.savefig(content, format=kind, metadata=marked, transparent=transparent)
    return content.getvalue()


def save(made: Any, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG."""
    for path in targets(folder, name):
        files.write(path, drawn(made, path.suffix[1:]), MARK.encode())
    return targets(folder, name)
