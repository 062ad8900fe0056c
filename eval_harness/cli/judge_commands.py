"""Options and commands about judges: --judge and its kin, `agreement`, `ls --judges`."""

import argparse
from pathlib import Path
from typing import Any

from eval_harness.cli.values import pairs
from eval_harness.errors import UserError


def _add_judge(sub: Any) -> None:
    sub.add_argument("--judge", help="http, hf, reward, words, function, length, recorded, or a .yaml file")
    sub.add_argument(
        "--judge-set", action="append", default=[], metavar="KEY=VALUE", help="an option of the judge"
    )
    sub.add_argument("--judge-template", help="template by name or path; default the preset's")


def add_judging(sub: argparse.ArgumentParser) -> None:
    """Add the options of suites that ask a judge."""
    group = sub.add_argument_group("win_rate")
    _add_judge(group)
    group.add_argument(
        "--alpaca-official",
        nargs="?",
        const="weighted_alpaca_eval_gpt4_turbo",
        metavar="ANNOTATOR",
        help="also run the official alpaca-eval on the same texts, in an environment of its own",
    )
    group.add_argument("--prompts", type=Path, help="JSON or JSON Lines with the prompts")
    group.add_argument("--prompt-key", help="key of the prompt in a row; default the preset's")
    group.add_argument(
        "--max-unjudged", type=float, help="share without judgement that is accepted; default the preset's"
    )


def options_from(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_judging`, as suites get them."""
    return {
        "judge": args.judge,
        "judge_options": pairs(args.judge_set, "--judge-set"),
        "template": args.judge_template,
        "prompts": args.prompts,
        "prompt_key": args.prompt_key,
        "max_unjudged": args.max_unjudged,
        "alpaca_official": args.alpaca_official,
    }


def add_parsers(commands: Any) -> None:
    """Add the commands to argparse's subparsers."""
    sub = commands.add_parser("agreement", help="how far judges agree with people: agreement, kappa, bias")
    _add_judge(sub)
    sub.add_argument(
        "--data", type=Path, action="append", required=True, help="JSON Lines: prompt, chosen, rejected"
    )
    sub.add_argument("--limit", type=int, help="at most this many pairs of each file")
    sub.add_argument("--cache", type=Path, help="judgements; default $EVAL_HARNESS_CACHE")
    sub.add_argument("--out", type=Path, help="also write the table: .md, .csv or .json")


def list_judges() -> None:
    """Print judges with their options, and the shipped templates."""
    from eval_harness.judges.registry import judge_names, judge_options
    from eval_harness.judges.templates import load_template, template_names

    for name in judge_names():
        options = ", ".join(f"{key}={default}" for key, default in judge_options(name).items())
        print(f"{name}  {options}")
    for name in template_names():
        template = load_template(name)
        print(f"template {name} v{template.version}  {template.kind}  {', '.join(sorted(template.fields))}")


def agreement(args: argparse.Namespace) -> None:
    """Judge human-labelled pairs and print how far judge and people agree, the longer text beside it."""
    from eval_harness.judges import build_judge, read_judge
    from eval_harness.models.answer_store import AnswerStore
    from eval_harness.run.runner import default_cache
    from eval_harness.win_rate.agreement import measure, read_pairs, table, write_table

    if args.limit is not None and args.limit < 1:
        raise UserError("--limit", got=args.limit, expected="a positive integer")
    if args.out is not None and args.out.suffix not in (".md", ".csv", ".json"):
        raise UserError("--out", got=args.out.name, expected=".md, .csv or .json")
    judges = [build_judge("length", {})]
    if args.judge:
        options = pairs(args.judge_set, "--judge-set")
        judges.append(read_judge(args.judge, options, args.judge_template or "helpful"))
    files = [(path.name, read_pairs(path, args.limit)) for path in args.data]
    store = AnswerStore((args.cache or default_cache()) / "answers.sqlite")
    try:
        rows = [measure(data, judge, store, name) for name, data in files for judge in judges]
    finally:
        store.close()
    print(table(rows), end="")
    if args.out is not None:
        write_table(args.out, rows)
