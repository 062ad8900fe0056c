"""eval-harness identity and scorer-agreement (`meta` is either of them), and what `ls --scorers` prints."""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval_harness.cli.say import say, show
from eval_harness.errors import UserError
from eval_harness.faithfulness import registry
from eval_harness.faithfulness.options import add_scorer_flags, scorer_options, split_names
from eval_harness.faithfulness.registry import ScorerSpec
from eval_harness.files.places import check_file, check_folder
from eval_harness.models.identity import identity
from eval_harness.models.reference import resolve

_IDENTITY = "print a checkpoint's identity (content hashes)"
_AGREEMENT = "how far a scorer agrees with people"


def add_parsers(commands: Any) -> None:
    """Add the commands to argparse's subparsers."""
    one = commands.add_parser("identity", help=_IDENTITY)
    _add_identity(one, required=True)
    one.set_defaults(call=_identity)
    two = commands.add_parser("scorer-agreement", help=_AGREEMENT)
    _add_agreement(two, required=True)
    two.set_defaults(call=_agreement, model=None)
    both = commands.add_parser("meta", help="identity, or with --scorer scorer-agreement")
    _add_identity(both, required=False)
    _add_agreement(both, required=False)
    both.set_defaults(call=_either)


def _add_identity(sub: argparse.ArgumentParser, required: bool) -> None:
    sub.add_argument("model", nargs=None if required else "?", help="folder of a checkpoint, or an address")
    sub.add_argument("--base", help="folder of a LoRA adapter's base model")
    sub.add_argument("--tokenizer")


def _add_agreement(sub: argparse.ArgumentParser, required: bool) -> None:
    sub.add_argument(
        "--scorer", action="append", default=[], required=required, help="name, or names joined by commas"
    )
    sub.add_argument(
        "--data", action="append", type=Path, default=[], help="JSON Lines of document, summary, label, score"
    )
    sub.add_argument("--by-source", action="store_true", help="also one row per value of the field source")
    sub.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--device", default="auto")
    add_scorer_flags(sub)
    sub.add_argument("--cache", type=Path, help="keeps the answers of an LLM judge")
    sub.add_argument("--format", choices=("text", "markdown", "csv", "json"), default="text")
    sub.add_argument("--out", type=Path, help="write the table here instead of printing it")


def _either(args: argparse.Namespace) -> int:
    if args.scorer:
        return _agreement(args)
    if args.model is None:
        raise UserError("meta", got="neither a model nor --scorer", expected="one of them")
    return _identity(args)


def _identity(args: argparse.Namespace) -> int:
    model = identity(resolve(args.model, args.base, args.tokenizer))
    show(json.dumps(dataclasses.asdict(model), indent=1))
    return 0


def _agreement(args: argparse.Namespace) -> int:
    if args.model is not None or not args.data or args.draws < 100:
        got = f"model {args.model}, {len(args.data)} data files, {args.draws} draws"
        raise UserError("scorer-agreement", got=got, expected="no model, --data FILE, at least 100 draws")
    if args.out is not None:
        check_file(args.out, "--out")
    if args.cache is not None:
        check_folder(args.cache, "--cache")
    specs = [ScorerSpec(name, {}) for given in args.scorer for name in split_names(given)]
    answers = args.cache / "answers.sqlite" if args.cache else None
    scorers = scorer_options(args).build(specs, args.device, answers)
    for scorer in scorers:
        scorer.check()
    from eval_harness.faithfulness.scorer_agreement import evaluate

    def announce(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    text = _table(evaluate(scorers, args.data, args.by_source, args.seed, args.draws, announce), args.format)
    if args.out is None:
        say(text.rstrip("\n"))
    else:
        from eval_harness.files.writing import write_text

        write_text(args.out, text)
    return 0


def _table(rows: Sequence[Any], style: str) -> str:
    from eval_harness.faithfulness.scorer_agreement import HEAD, cells, csv_table
    from eval_harness.files.tables import markdown_table, text_table

    if style == "json":
        return json.dumps([_json(row) for row in rows], indent=1) + "\n"
    if style == "csv":
        return csv_table(rows)
    lines = (markdown_table if style == "markdown" else text_table)([HEAD, *map(cells, rows)])
    return "".join(f"{line}\n" for line in lines)


def _json(row: Any) -> dict[str, Any]:
    measured = row.agreement._asdict()
    for name, value in measured.items():
        if hasattr(value, "_asdict"):
            measured[name] = {k: None if math.isnan(v) else v for k, v in value._asdict().items()}
    return {"data": row.data, "metric": row.metric, "options": row.options, "found": measured}


def scorer_lines() -> Sequence[str]:
    """Every scorer with its description, metrics and options."""
    import eval_harness.faithfulness.scorers  # noqa: F401 - registers them

    return registry.scorer_lines()
