"""eval-harness agreement, and what `ls --judges` prints."""

import argparse
from pathlib import Path
from typing import Any

from eval_harness.cli.say import say
from eval_harness.errors import UserError
from eval_harness.files.configs import key_values
from eval_harness.files.places import check_file, check_folder
from eval_harness.win_rate.options import add_judge_flags


def add_parsers(commands: Any) -> None:
    """Add the commands to argparse's subparsers."""
    sub = commands.add_parser("agreement", help="how far judges agree with people: agreement, kappa, bias")
    add_judge_flags(sub)
    sub.add_argument(
        "--data", type=Path, action="append", required=True, help="JSON Lines: prompt, chosen, rejected"
    )
    sub.add_argument("--limit", type=int, help="at most this many pairs of each file")
    sub.add_argument("--cache", type=Path, help="judgements; default $EVAL_HARNESS_CACHE")
    sub.add_argument("--out", type=Path, help="also write the table: .md, .csv or .json")
    sub.set_defaults(call=_agreement)


def judge_lines() -> list[str]:
    """Judges with their options, and the shipped templates."""
    import eval_harness.judges  # noqa: F401 - registers them
    from eval_harness.judges.registry import judge_names, judge_options
    from eval_harness.judges.templates import load_template, template_names

    lines = []
    for name in judge_names():
        options = ", ".join(f"{key}={default}" for key, default in judge_options(name).items())
        lines.append(f"{name}  {options}")
    for template in map(load_template, template_names()):
        fields = ", ".join(sorted(template.fields))
        lines.append(f"template {template.name} v{template.version}  {template.kind}  {fields}")
    return lines


def _agreement(args: argparse.Namespace) -> int:
    """Judge human-labelled pairs and print how far judge and people agree, the longer text beside it."""
    from eval_harness.judges import build_judge, read_judge
    from eval_harness.models.answer_store import AnswerStore
    from eval_harness.run.runner import default_cache
    from eval_harness.win_rate.agreement import measure, read_pairs, table, write_table

    if args.limit is not None and args.limit < 1:
        raise UserError("--limit", got=args.limit, expected="a positive integer")
    if args.out is not None and args.out.suffix not in (".md", ".csv", ".json"):
        raise UserError("--out", got=args.out.name, expected=".md, .csv or .json")
    if args.out is not None:
        check_file(args.out, "--out")
    check_folder(args.cache or default_cache(), "--cache")
    judges = [build_judge("length", {})]
    if args.judge:
        options = key_values(args.judge_set, "--judge-set")
        judges.append(read_judge(args.judge, options, args.judge_template or "helpful"))
    files = [(path.name, read_pairs(path, args.limit)) for path in args.data]
    store = AnswerStore((args.cache or default_cache()) / "answers.sqlite")
    try:
        rows = [measure(data, judge, store, name) for name, data in files for judge in judges]
    finally:
        store.close()
    say(table(rows).rstrip("\n"))
    if args.out is not None:
        write_table(args.out, rows)
    return 0
