"""eval-harness run, validate, ls: measure models, check everything beforehand, list what there is."""

import argparse
import os
from pathlib import Path
from typing import Any

from eval_harness.cli import gate_commands, judge_commands, scorer_commands
from eval_harness.cli.say import say, show
from eval_harness.files.configs import key_values
from eval_harness.models.reference import resolve
from eval_harness.models.settings import Settings
from eval_harness.run.preset import preset_names
from eval_harness.run.registry import get, names
from eval_harness.run.runner import Request, default_cache, load_suite_preset, parse_suites, run, validate
from eval_harness.types import SuiteResult

EPILOG = (
    "Several GPUs: accelerate launch -m eval_harness run ..., or --backend vllm with --tensor-parallel; many "
    "machines: --backend vllm --executor ray."
)


def add_parsers(commands: Any) -> None:
    """Add the commands to argparse's subparsers; every suite brings its own flags."""
    for name, text in (("run", "measure a model"), ("validate", "check everything, generate nothing")):
        sub = commands.add_parser(name, help=text, epilog=EPILOG)
        _add_model(sub, required=name == "run")
        _add_what(sub, required=name == "run")
        _add_how(sub)
        for suite in names():
            get(suite).add_flags(sub.add_argument_group(suite))
        if name == "run":
            sub.add_argument(
                "--dry-run", action="store_true", help="what it would take and cost; asks nothing"
            )
            _add_stopping(sub)
            sub.set_defaults(call=_run)
        else:
            gate_commands.add_power(sub)
            sub.set_defaults(call=_validate)
    ls = commands.add_parser("ls", help="list suites and presets")
    ls.add_argument("--tasks", action="store_true", help="also list every task")
    ls.add_argument("--judges", action="store_true", help="list judges, their options, and templates")
    ls.add_argument("--scorers", action="store_true", help="list the scorers and their options instead")
    ls.set_defaults(call=_ls)


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
    sub.add_argument("--out", type=Path, required=required)
    sub.add_argument("--overwrite", action="store_true", help="replace another run's result in --out")
    sub.add_argument("--cache", type=Path, help="answers and finished runs; default $EVAL_HARNESS_CACHE")
    sub.add_argument("--no-cache", action="store_true", help="keep nothing: no resume, no reuse")
    sub.add_argument("--offline", action="store_true", help="never ask the hub")


def _add_stopping(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--until-decided",
        metavar="GATES",
        help="measure --model and --baseline in batches until these gates are decided; exit code as `gate`",
    )
    sub.add_argument("--look-every", type=int, default=50, help="with --until-decided: items a look adds")


def _add_how(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--backend", default="hf", help="hf (default) or vllm")
    sub.add_argument("--dtype", default="auto")
    sub.add_argument("--device", default="auto")
    sub.add_argument("--batch-size", default="8", help="integer, or auto")
    sub.add_argument("--max-length", type=int, help="context length in tokens; default the model's")
    sub.add_argument("--chat-template", action="store_true", help="apply the tokenizer's chat template")
    sub.add_argument(
        "--strip-thinking",
        default="auto",
        help="remove reasoning before grading: auto (where the chat template has a switch for it), yes, no",
    )
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
        strip_thinking=args.strip_thinking,
        tensor_parallel=args.tensor_parallel,
        data_parallel=args.data_parallel,
        executor=args.executor,
        endpoint=args.endpoint,
        concurrency=args.concurrency,
        allow_truncation=args.allow_truncation,
        generation=key_values(args.generation, "--generation"),
        engine=key_values(args.engine, "--engine"),
        **given,
    ).checked()


def request_from(args: argparse.Namespace) -> Request:
    """Resolve names and files of a command line; touches no model."""
    tasks = [t.strip() for t in args.tasks.split(",")] if args.tasks else None
    presets = parse_suites(args.suites or "reasoning", tasks, args.limit)
    suites = {preset.suite: get(preset.suite) for preset in presets}
    options = {name: suite.options(args) for name, suite in suites.items()}
    if args.offline or all(suites[p.suite].is_local(p, options[p.suite]) for p in presets):
        # Read by huggingface_hub and datasets when they are imported, which has not happened yet.
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    baseline = None
    if args.baseline:
        tokenizer = args.tokenizer if "://" in args.baseline else None
        baseline = resolve(args.baseline, None, tokenizer, args.model_id)
    return Request(
        model=resolve(args.model, args.base, args.tokenizer, args.model_id) if args.model else None,
        baseline=baseline,
        presets=presets,
        settings=settings_from(args),
        options=options,
        out=args.out,
        cache=None if args.no_cache else args.cache or default_cache(),
        overwrite=args.overwrite,
    )


def _run(args: argparse.Namespace) -> int:
    if args.dry_run:
        say("\n".join(validate(request_from(args))))
        return 0
    if args.until_decided:
        return _run_until_decided(args)
    for result in run(request_from(args)):
        _print_result(result)
    return 0


def _run_until_decided(args: argparse.Namespace) -> int:
    """Measure as far as a verdict needs, write the reports, return the verdict's exit code."""
    from eval_harness.gate.gates import load_gates
    from eval_harness.gate.reports.wording import table
    from eval_harness.run.until_decided import run_until_decided

    file, request = load_gates(args.until_decided), request_from(args)
    decision, page = run_until_decided(request, file, args.look_every, tell=say)
    say(f"{table(decision)}\nreport: {page}")
    return decision.exit_code


def _validate(args: argparse.Namespace) -> int:
    lines = gate_commands.validate_gates(args) if args.gates else []
    if not args.gates or args.suites or args.model:
        lines += validate(request_from(args))
    say("\n".join(lines))
    return 0


def _print_result(result: SuiteResult) -> None:
    counts = ", ".join(f"{k} {v}" for k, v in result.counts.items())
    say(f"{result.suite}:{result.preset} v{result.preset_version}  {result.model.label}  {counts}")
    for score in result.scores:
        if score.main or score.low is not None or score.is_group:
            task = f"group:{score.task}" if score.is_group else score.task
            error = "" if score.stderr is None else f" +- {score.stderr:.4f}"
            flag = "" if score.comparable else "  not comparable"
            say(f"  {task:<52} {score.metric:<30} {score.value:.4f}{error}  n={score.n}{flag}")
    for note in result.notes:
        say(f"  note: {note}")


def _ls(args: argparse.Namespace) -> int:
    if args.judges or args.scorers:
        show("\n".join((judge_commands.judge_lines if args.judges else scorer_commands.scorer_lines)()))
        return 0
    for suite in names():
        for name in preset_names(suite):
            preset = load_suite_preset(suite, name)
            show(f"{suite}:{name}  v{preset.version}  {len(preset.tasks())} tasks  {preset.title}")
            for line in preset.task_lines() if args.tasks else ():
                show(f"  {line}")
    return 0
