"""What the reasoning suite is asked besides its preset, and the flags that say it."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from eval_harness.reasoning.data import DataMapping, load_mapping
from eval_harness.reasoning.preset import ReasoningPreset
from eval_harness.run.job import Job


@dataclass(frozen=True)
class ReasoningOptions:
    """`mapping` names local files instead of the hub; `punkt_standin` allows IFEval without NLTK's data."""

    mapping: DataMapping | None = None
    punkt_standin: bool = False


ReasoningJob = Job[ReasoningPreset, ReasoningOptions]


def add_flags(group: "argparse._ArgumentGroup") -> None:
    """Where data come from."""
    group.add_argument("--data", type=Path, help="MAPPING.yaml: local files instead of the hub")
    group.add_argument(
        "--punkt-standin", action="store_true", help="IFEval without NLTK's data, not comparable"
    )


def options_from(args: argparse.Namespace) -> ReasoningOptions:
    """Read the mapping."""
    return ReasoningOptions(load_mapping(args.data) if args.data else None, args.punkt_standin)
