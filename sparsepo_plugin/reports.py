"""``sparsepo view | plot | sweep``: their arguments, and what they start."""

from __future__ import annotations

import argparse
from typing import Any

COMMANDS = ("view", "plot", "sweep")


def add_parsers(commands: Any) -> None:
    """Add the three commands to the subparsers of ``sparsepo``."""
    view = commands.add_parser("view", help="write a page that shows a token record")
    view.add_argument("record", metavar="RECORD", help="tokens.jsonl, or the folder of a run that has one")
    view.add_argument("-o", "--output", metavar="FILE", required=True, help="the HTML page to write")
    plot = commands.add_parser("plot", help="plot trainings over each other, seeds as bands")
    plot.add_argument("runs", metavar="RUN", nargs="+", help="output folder of a training")
    plot.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for the PNG and SVG files")
    sweep = commands.add_parser("sweep", help="train a grid of losses, betas, options and seeds; resumable")
    sweep.add_argument(
        "--grid", metavar="FILE", required=True, help="YAML: base, losses, betas, options, seeds"
    )
    sweep.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for runs, tables, plots")


def run(known: argparse.Namespace) -> None:
    """Run the chosen command.

    Raises:
      UserError: bad input, or a run of a sweep that failed.
    """
    if known.command == "view":
        from sparsepo_plugin.report.view.page import view

        view(known.record, known.output)
    elif known.command == "plot":
        from sparsepo_plugin.report.plots.training import plot

        plot(known.runs, known.output)
    else:
        from sparsepo_plugin.sweep.run import sweep

        sweep(known.grid, known.output)
