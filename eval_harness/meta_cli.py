"""eval-harness meta: a checkpoint's identity, or with --scorer a scorer's agreement with people."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from eval_harness.checkpoint import identity, resolve
from eval_harness.errors import UserError
from eval_harness.scoring.cases import Device, Scorer
from eval_harness.scoring.catalog import Wanted, build_scorer

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
    meta.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of all scorers, or SCORER.KEY=VALUE",
    )
    meta.add_argument("--by-source", action="store_true", help="also one row per value of the field source")
    meta.add_argument("--draws", type=int, default=1000, help="of the bootstrap")
    meta.add_argument("--seed", type=int, default=0)
    meta.add_argument("--device", default="auto")
    meta.add_argument("--dtype", default="float32")
    meta.add_argument("--batch-tokens", type=int, default=8192, help="rows x longest row of a batch")
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
    scorers = build_all(args)
    for scorer in scorers:
        scorer.check()
    text = _table(args, scorers)
    if args.out is None:
        print(text, end="" if text.endswith("\n") else "\n")
    else:
        from eval_harness.output import write_text

        write_text(args.out, text)
    return 0


def build_all(args: argparse.Namespace) -> list[Scorer]:
    """The scorers of a command line. Raises UserError: unknown names, options or types."""
    names = [name.strip() for given in args.scorer for name in given.split(",")]
    options = split_options(args.option, names)
    run_on = device_from(args.device, args.dtype, args.batch_tokens)
    return [build_scorer(Wanted(name, options[name]), run_on) for name in names]


def device_from(device: str, dtype: str, batch_tokens: int) -> Device:
    """Where models of scorers run. Raises UserError for values that no model accepts."""
    if dtype not in ("float32", "bfloat16", "float16") or batch_tokens < 1:
        raise UserError(
            "--dtype, --batch-tokens",
            got=(dtype, batch_tokens),
            expected="float32, bfloat16 or float16; an integer of at least 1",
        )
    return Device(device, dtype, batch_tokens)


def split_options(items: list[str], names: list[str]) -> dict[str, dict[str, Any]]:
    """KEY=VALUE for all scorers and SCORER.KEY=VALUE for one, per scorer; values are read as YAML.

    Raises:
      UserError: no KEY=VALUE, or a scorer that is not asked for.
    """
    from eval_harness.cli_values import pairs

    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in pairs(items, "--option").items():
        scorer, dot, option = key.partition(".")
        if dot and scorer not in found:
            raise UserError("--option", got=key, expected=f"one of the scorers {', '.join(names)}")
        for name in [scorer] if dot else names:
            found[name][option if dot else key] = value
    return found


def _table(args: argparse.Namespace, scorers: list[Scorer]) -> str:
    from eval_harness.meta import csv_table, evaluate, markdown_table, text_table

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
