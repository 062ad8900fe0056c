"""Command line of the study: ``python -m study --data FOLDER [--scale small] [--parts ...]``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TypeVar

import torch

from sparsepo_plugin.errors import guarded
from study import capability, domain_study, longer, report, sentiment
from study.domain import DOMAINS
from study.scales import PREFERENCES, SENTIMENT, Preferences, Sentiment

Scale = TypeVar("Scale", Sentiment, Preferences)
PARTS = ("sentiment", "longer", *DOMAINS, "capability", "report")


def main() -> None:
    """Run what is missing of the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m study", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with text/ and preference/")
    parser.add_argument("--out", type=Path, default=Path("docs/study"), help="folder of the CSV files")
    parser.add_argument(
        "--page", type=Path, default=Path("docs/study.md"), help="page whose tables are filled"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/study"), help="folder of models, kept")
    parser.add_argument("--scale", choices=sorted(SENTIMENT), default="full")
    parser.add_argument("--seeds", nargs="+", type=int, help="these instead of the scale's")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    raise SystemExit(guarded(lambda: run(arguments)))


def run(arguments: argparse.Namespace) -> None:
    """Run the parts in order; one thread, so that results do not depend on the number of cores."""
    torch.set_num_threads(1)
    folders = (arguments.data, arguments.work, arguments.out)
    for part in arguments.parts:
        if part == "sentiment":
            scale = _seeded(SENTIMENT[arguments.scale], arguments.seeds)
            sentiment.study(arguments.data, arguments.work / part, arguments.out, scale)
        elif part == "longer":
            scale = _seeded(SENTIMENT[arguments.scale], arguments.seeds)
            longer.study(arguments.data, arguments.work / "sentiment", arguments.out, scale)
        elif part == "capability":
            capability.study(*folders, arguments.scale)
        elif part == "report":
            report.report(arguments.out, arguments.page, arguments.scale)
        else:
            scales = SENTIMENT[arguments.scale], _seeded(PREFERENCES[arguments.scale], arguments.seeds)
            domain_study.study(part, *folders, *scales)


def _seeded(scale: Scale, seeds: list[int] | None) -> Scale:
    return dataclasses.replace(scale, seeds=tuple(seeds)) if seeds else scale


if __name__ == "__main__":
    main()
