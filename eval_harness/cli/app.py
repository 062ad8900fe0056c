"""eval-harness run | compare | gate | report | validate | ls | meta.

Exit codes: 0 done or kept, 1 regressed, 2 bad or missing input (one line), 3 undecided.
"""

import argparse
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from eval_harness.cli import gate_commands as verdict_cli
from eval_harness.cli import judge_commands as judge_cli
from eval_harness.cli import meta_commands as meta_cli
from eval_harness.cli.values import pairs
from eval_harness.errors import UserError
from eval_harness.faithfulness import flags
from eval_harness.models.reference import resolve
from eval_harness.models.settings import Settings
from eval_harness.reasoning.data import load_mapping
from eval_harness.reasoning.preset import preset_names
from eval_harness.run.registry import names
from eval_harness.run.runner import Request, default_cache, load_suite_preset, parse_suites, run, validate
from eval_harness.types import SuiteResult

EPILOG = (
    "Several GPUs: accelerate launch -m eval_harness run ..., or --backend vllm with --tensor-parallel; many "
)
EPILOG += "machines: --backend vllm --executor ray."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """One line instead of argparse's usage text."""
        raise UserError(message, remedy=f"{self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(prog="eval-harness", description=__doc__, epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for name, text in (("run", "measure a model"), ("validate", "check everything, generate nothing")):
        sub = commands.add_parser(name, help=text, epilog=EPILOG)
        _add_model(sub, required=name == "run")
        _add_what(sub, required=name == "run")
        _add_how(sub)
        flags.add_summaries(sub)
        judge_cli.add_judging(sub)
        if name == "run":
            sub.add_argument(
                "--dry-run", action="store_true", help="what it would take and cost; asks nothing"
            )
        if name == "validate":
            verdict_cli.add_power(sub)
    verdict_cli.add_parsers(commands)
    judge_cli.add_parsers(commands)
    ls = commands.add_parser("ls", help="list suites and presets")
    ls.add_argument("--tasks", action="store_true", help="also list every task")
    ls.add_argument("--judges", action="store_true", help="list judges, their options, and templates")
    ls.add_argument("--scorers", action="store_true", help="list the scorers and their options instead")
    meta_cli.add_parser(commands)
    return parser


def _add_model(sub: argparse.ArgumentParser, required: bool) -> None:
    sub.add_argument(
        "--model", required=required, help="Hugging Face folder, LoRA adapter folder, or http(s)://.../v1"
    )
    sub.add_argument(
        "--baseline", help="a second model, measured with the same prompts; reused across candidates"
    )
    sub.add_argument("--base", help="folder of a LoRA adapter's base model")
    sub.add_argument("--tokenizer", help="folder of the tokenizer (required for a completions endpoint)")
    sub.add_argument(
        "--model-id", help="name of the exact weights behind an endpoint: its identity in the cache"
    )
    sub.add_argument("--endpoint", choices=("completions", "chat"), default="completions")


def _add_what(sub: argparse.ArgumentParser, required: bool) -> None:
    sub.add_argument("--suites", help="e.g. reasoning (the default), reasoning:quick, reasoning:my.yaml")
    sub.add_argument("--tasks", help="comma-separated tasks or groups of the preset; default all")
    sub.add_argument("--limit", type=int, help="at most this many documents per task")
    sub.add_argument("--data", type=Path, help="MAPPING.yaml: local files instead of the hub")
    sub.add_argument("--out", type=Path, required=required)
    sub.add_argument("--overwrite", action="store_true", help="replace another run's result in --out")
    sub.add_argument("--cache", type=Path, help="answers and finished runs; default $EVAL_HARNESS_CACHE")
    sub.add_argument("--no-cache", action="store_true", help="keep nothing: no resume, no reuse")
    sub.add_argument(
        "--punkt-standin", action="store_true", help="IFEval without NLTK's data, not comparable"
    )
    sub.add_argument("--offline", action="store_true", help="never ask the hub")


def _add_how(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--backend", default="hf", help="hf (default) or vllm")
    sub.add_argument("--dtype", default="auto")
    sub.add_argument("--device", default="auto")
    sub.add_argument("--batch-size", default="8", help="integer, or auto")
    sub.add_argument("--max-length", type=int, help="context length in tokens; default the model's")
    sub.add_argument("--chat-template", action="store_true", help="apply the tokenizer's chat template")
    sub.add_argument("--singleturn", action="store_true", help="few-shot examples in one user turn")
    sub.add_argument("--tensor-parallel", type=int, default=1, help="GPUs per replica")
    sub.add_argument("--data-parallel", type=int, default=1, help="replicas (vllm, through Ray)")
    sub.add_argument("--executor", choices=("mp", "ray"), help="vllm's distributed executor")
    sub.add_argument("--concurrency", type=int, default=1, help="parallel calls to an endpoint")
    sub.add_argument("--allow-truncation", action="store_true", help="cut prompts that exceed the context")
    sub.add_argument("--seed", type=int, help="one seed for everything; default lm-eval's seeds")
    sub.add_argument(
        "--generation",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override, e.g. max_gen_toks=64",
    )
    sub.add_argument(
        "--engine", action="append", default=[], metavar="KEY=VALUE", help="passed to the backend"
    )


def settings_from(args: argparse.Namespace) -> Settings:
    """Engine and generation settings of a command line."""
    given: dict[str, Any] = {}
    if args.seed is not None:
        given["seeds"] = dict.fromkeys(Settings().seeds, args.seed)
    return Settings(
        backend=args.backend,
        dtype=args.dtype,
        device=args.device,
        batch_size=args.batch_size,
        limit_context=args.max_length,
        chat_template=args.chat_template,
        multiturn=not args.singleturn,
        tensor_parallel=args.tensor_parallel,
        data_parallel=args.data_parallel,
        executor=args.executor,
        endpoint=args.endpoint,
        concurrency=args.concurrency,
        allow_truncation=args.allow_truncation,
        generation=pairs(args.generation, "--generation"),
        engine=pairs(args.engine, "--engine"),
        **given,
    ).checked()


def request_from(args: argparse.Namespace) -> Request:
    """Resolve names and files of a command line; touches no model."""
    tasks = [t.strip() for t in args.tasks.split(",")] if args.tasks else None
    presets = parse_suites(args.suites or "reasoning", tasks, args.limit)
    mapping = load_mapping(args.data) if args.data else None
    everything_local = mapping is not None and all(mapping.splits(t) for p in presets for t in p.tasks())
    if args.offline or everything_local:
        # Read by huggingface_hub and datasets when they are imported, which has not happened yet.
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    return Request(
        model=resolve(args.model, args.base, args.tokenizer, args.model_id) if args.model else None,
        baseline=resolve(
            args.baseline, None, args.tokenizer if "://" in args.baseline else None, args.model_id
        )
        if args.baseline
        else None,
        presets=presets,
        settings=settings_from(args),
        out=args.out,
        mapping=mapping,
        cache=None if args.no_cache else args.cache or default_cache(),
        punkt_standin=args.punkt_standin,
        overwrite=args.overwrite,
        extra={**judge_cli.options_from(args), **flags.options_from(args)},
    )


def _print_result(result: SuiteResult) -> None:
    counts = ", ".join(f"{k} {v}" for k, v in result.counts.items())
    print(f"{result.suite}:{result.preset} v{result.preset_version}  {result.model.label}  {counts}")
    for score in result.scores:
        if score.normalised is not None or score.low is not None or score.task.startswith("group:"):
            error = "" if score.stderr is None else f" +- {score.stderr:.4f}"
            flag = "" if score.comparable else "  not comparable"
            print(f"  {score.task:<52} {score.metric:<30} {score.value:.4f}{error}  n={score.n}{flag}")
    for note in result.notes:
        print(f"  note: {note}")


def _ls(with_tasks: bool) -> None:

    for suite in names():
        for name in preset_names(suite):
            preset = load_suite_preset(suite, name)
            print(f"{suite}:{name}  v{preset.version}  {len(preset.tasks())} tasks  {preset.title}")
            for line in preset.task_lines() if with_tasks else ():
                print(f"  {line}")


def dispatch(argv: list[str] | None) -> int:
    """Run one command and return its exit code; mistakes are raised as UserError."""
    args = build_parser().parse_args(argv)
    if args.command in ("compare", "gate", "report"):
        code: int = getattr(verdict_cli, args.command)(args)
        return code
    if args.command == "agreement":
        judge_cli.agreement(args)
    elif args.command == "ls" and args.judges:
        judge_cli.list_judges()
    elif args.command == "ls" and args.scorers:
        print("\n".join(flags.scorer_lines()))
    elif args.command == "ls":
        _ls(args.tasks)
    elif args.command == "meta":
        return meta_cli.run(args)
    elif args.command == "validate":
        lines = verdict_cli.validate_gates(args) if args.gates else []
        if not args.gates or args.suites or args.model:
            lines += validate(request_from(args))
        print("\n".join(lines))
    elif args.dry_run:
        print("\n".join(validate(request_from(args))))
    else:
        for result in run(request_from(args)):
            _print_result(result)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    logging.basicConfig(level=os.environ.get("EVAL_HARNESS_LOG", "ERROR"))
    try:
        return dispatch(argv)
    except UserError as error:
        print(f"eval-harness: {error}", file=sys.stderr)
        return 2
    except Exception:
        # A fault of ours: Python's own exit code for it, 1, would read as REGRESSED.
        traceback.print_exc()
        return 2
