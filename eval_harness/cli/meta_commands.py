"""eval-harness meta: a checkpoint's identity, or with --scorer a scorer's agreement with people."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.faithfulness import flags
from eval_harness.faithfulness.examples import Scorer
from eval_harness.faithfulness.registry import ScorerSpec
from eval_harness.models.identity import identity
from eval_harness.models.reference import resolve

_HELP = "print a checkpoint's identity (content hashes); with --scorer: how a scorer agrees with people"


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    meta = commands.add_parser("meta", help=_HELP)
    meta.add_argument("model", nargs="?", help="a checkpoint; not with --scorer")
    meta.add_argument("--base", help="folder of a LoRA adapter's base model")
    meta.add_argument("--tokenizer")
    meta.add_argument("--scorer", action="append", default=[], help="name, or names joined by commas")
    meta.add_argument(
        "--data", action="append", type=Path, default=[], help="JSON Lines of document, summary, label, score"
    )
    meta.add_argument("--by-source", action="store_true", help="also one row per value of the field source")
    meta.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    meta.add_argument("--seed", type=int, default=0)
    meta.add_argument("--device", default="auto")
    flags.add_flags(meta)
    meta.add_argument("--cache", type=Path, help="keeps the answers of an LLM judge")
    meta.add_argument("--format", choices=("text", "markdown", "csv", "json"), default="text")
    meta.add_argument("--out", type=Path, help="write the table here instead of printing it")


def run(args: argparse.Namespace) -> int:
    """Run either command."""
    if not args.scorer:
        if args.model is None:
            raise UserError("meta", got="neither a model nor --scorer", expected="one of them")
        print(json.dumps(identity(resolve(args.model, args.base, args.tokenizer)).to_json(), indent=1))
        return 0
    if args.model is not None or not args.data or args.draws < 100:
        got = f"model {args.model}, {len(args.data)} data files, {args.draws} draws"
        raise UserError("meta --scorer", got=got, expected="no model, --data FILE, at least 100 draws")
    wanted = [ScorerSpec(name, {}) for given in args.scorer for name in flags.split_names(given)]
    scorers = flags.build_scorers(
        wanted, flags.options_from(args), args.device, args.cache / "answers.sqlite" if args.cache else None
    )
    for scorer in scorers:
        scorer.check()
    text = _table(args, scorers)
    if args.out is None:
        print(text, end="" if text.endswith("\n") else "\n")
    else:
        from eval_harness.run.folder import write_text

        write_text(args.out, text)
    return 0


def _table(args: argparse.Namespace, scorers: list[Scorer]) -> str:
    from eval_harness.faithfulness.scorer_agreement import csv_table, evaluate, markdown_table, text_table

    def announce(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    rows = evaluate(scorers, args.data, args.by_source, args.seed, args.draws, announce)
    if args.format == "json":
        return json.dumps([_json(row) for row in rows], indent=1) + "\n"
    return {"text": text_table, "markdown": markdown_table, "csv": csv_table}[args.format](rows)


def _json(row: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {**row._asdict(), "found": row.found._asdict()}
    for name, value in plain["found"].items():
        if hasattr(value, "_asdict"):
            plain["found"][name] = {k: None if math.isnan(v) else v for k, v in value._asdict().items()}
    return plain
