"""Command-line flags of scorers, shared by `run`, `validate` and `meta`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval_harness.cli.values import pairs
from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Device, Scorer
from eval_harness.faithfulness.registry import (
    ScorerSpec,
    build_scorer,
    option_fields,
    scorer_class,
    scorer_names,
)

_DTYPES = ("float32", "bfloat16", "float16")


def add_flags(sub: Any) -> None:
    """Add the options of scorers and of the machine their models run on."""
    sub.add_argument(
        "--scorer-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of every scorer, or SCORER.KEY=VALUE of one; `ls --scorers` lists them",
    )
    sub.add_argument("--scorer-dtype", choices=_DTYPES, default="float32", help="of the scorers' models")
    sub.add_argument("--batch-tokens", type=int, default=8192, help="rows x longest row of a scorer's batch")


def add_summaries(sub: argparse.ArgumentParser) -> None:
    """Add the options of the faithfulness suite."""
    group: Any = sub.add_argument_group("faithfulness")
    group.add_argument("--documents", type=Path, help="JSON Lines of document, perhaps reference and id")
    group.add_argument("--scorers", help="names joined by commas instead of the preset's")
    add_flags(group)


def options_from(args: argparse.Namespace) -> dict[str, Any]:
    """The flags as plain values."""
    return {
        "scorer_option": list(args.scorer_option),
        "scorer_dtype": args.scorer_dtype,
        "batch_tokens": args.batch_tokens,
        "documents": getattr(args, "documents", None),
        "scorers": getattr(args, "scorers", None),
    }


def build_scorers(
    wanted: Sequence[ScorerSpec], options: dict[str, Any], device: str, answers: Path | None
) -> list[Scorer]:
    """Build scorers.

    Args:
      wanted: names and options, of a preset or bare.
      options: from `options_from`; empty for its defaults.
      device: where models run.
      answers: file that keeps what judges say, None keeps nothing.

    Raises:
      UserError: unknown names or options, values of another type.
    """
    import eval_harness.faithfulness.scorers  # noqa: F401 - registers them

    batch_tokens = options.get("batch_tokens", 8192)
    if batch_tokens < 1:
        raise UserError("--batch-tokens", got=batch_tokens, expected="an integer of at least 1")
    given = split_options(options.get("scorer_option", []), [w.name for w in wanted])
    run_on = Device(device, options.get("scorer_dtype", "float32"), batch_tokens, answers)
    return [build_scorer(ScorerSpec(w.name, {**w.options, **given[w.name]}), run_on) for w in wanted]


def split_options(items: list[str], names: list[str]) -> dict[str, dict[str, Any]]:
    """KEY=VALUE for all scorers and SCORER.KEY=VALUE for one, per scorer; values are read as YAML.

    Raises:
      UserError: no KEY=VALUE, or a scorer that is not asked for.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in pairs(items, "--scorer-option").items():
        scorer, dot, option = key.partition(".")
        if dot and scorer not in found:
            raise UserError("--scorer-option", got=key, expected=f"one of the scorers {', '.join(names)}")
        for name in [scorer] if dot else names:
            found[name][option if dot else key] = value
    return found


def split_names(text: str) -> list[str]:
    """Names joined by commas."""
    return [name.strip() for name in text.split(",")]


def scorer_lines() -> list[str]:
    """Every scorer with its description, metrics and options with their defaults."""
    import eval_harness.faithfulness.scorers  # noqa: F401 - registers them

    lines = []
    for name in scorer_names():
        cls = scorer_class(name)
        lines.append(f"{name}  {(cls.__doc__ or '').splitlines()[0]}")
        lines.append(f"  metrics  {', '.join(metric.name for metric in cls.metrics)}")
        lines += [f"  option   {key}={default}" for key, (_, default) in option_fields(cls).items()]
    return lines
