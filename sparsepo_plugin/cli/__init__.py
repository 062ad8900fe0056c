"""``sparsepo train | validate | export | ls | demo | view | report | plot | sweep | weigh``.

A command imports what it runs when it runs, so that each starts fast and needs no package of another's.
"""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sparsepo_plugin.cli import losses, weigh
from sparsepo_plugin.cli.parser import Parser
from sparsepo_plugin.errors import UserError, guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (2: bad input, 1: the run failed)."""
    codes: list[int] = []
    words = sys.argv[1:] if argv is None else list(argv)
    return guarded(lambda: codes.append(_dispatch(words))) or codes[0]


def _dispatch(argv: list[str]) -> int:
    parser = Parser(prog="sparsepo", description="SparsePO: learned weights for every token.", passes_on=True)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    _add_training(commands)
    _add_reports(commands)
    known, rest = parser.parse_known_args(argv)
    if known.command in ("train", "validate"):
        known.rest = rest
    elif rest:
        parser.error(f"{known.command}: unrecognized arguments: {' '.join(rest)}")
    return known.run(known) or 0


def _add(
    commands: Any, name: str, run: Callable[[Namespace], int | None], text: str, *, own_help: bool = True
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, add_help=own_help, passes_on=not own_help
    )
    parser.set_defaults(run=run)
    return parser


def _add_output(parser: argparse.ArgumentParser, kind: str, text: str, default: str | None = None) -> None:
    parser.add_argument(
        *("-o", "--out", "--output"),
        dest="output",
        metavar=kind,
        required=default is None,
        default=default,
        help=text,
    )


def _add_training(commands: Any) -> None:
    train = _add(commands, "train", _train, "train; takes --config FILE and OpenRLHF's flags", own_help=False)
    text = "check a configuration; loads no model, writes nothing"
    validate = _add(commands, "validate", _validate, text, own_help=False)
    for parser in (train, validate):
        parser.add_argument("--processes", type=int, default=1, help="processes on this machine")
    validate.set_defaults(smoke=None)
    train.add_argument(
        "--smoke", metavar="DIR", help="try the configuration on a tiny model and generated data"
    )
    export = _add(commands, "export", _export, "turn a DeepSpeed checkpoint into a Hugging Face folder")
    export.add_argument("--checkpoint", type=Path, required=True, help="--ckpt.path of a run, or one of it")
    export.add_argument("--out", type=Path, required=True, help="new folder")
    export.add_argument("--merge", action="store_true", help="merge a LoRA adapter into its base")
    sweep = _add(commands, "sweep", _sweep, "train a grid of losses, betas, options and seeds; resumable")
    sweep.add_argument(
        "--grid", metavar="FILE", required=True, help="YAML: base, losses, betas, options, seeds"
    )
    _add_output(sweep, "DIR", "folder for runs, tables, plots")
    demo = _add(commands, "demo", _demo, "train a tiny model on generated data with planted tokens")
    demo.add_argument("--out", default="runs/demo", help="output folder")
    demo.add_argument("--seed", type=int, default=0)


def _add_reports(commands: Any) -> None:
    ls = _add(commands, "ls", _list, "list losses with needs and options")
    ls.add_argument("loss", metavar="LOSS", nargs="?", help="only this one")
    ls.add_argument(
        "--sites", metavar="MODEL", help="list where MaPO records this model's activations instead"
    )
    ls.add_argument(
        "--readme", type=Path, nargs="+", help="rewrite the tables between these files' markers instead"
    )
    weigh_text = "number the tokens of preference pairs, for losses that read weights from the data"
    weigh.add_flags(_add(commands, "weigh", weigh.run, weigh_text))
    view = _add(commands, "view", _view, "write a page that shows a token record")
    view.add_argument("record", metavar="RECORD", help="tokens.jsonl, or the folder of a run that has one")
    _add_output(view, "FILE", "the HTML page to write")
    report = _add(commands, "report", _report, "write one page of runs: configuration, curves, masks, tokens")
    report.add_argument("runs", metavar="RUN", nargs="+", help="output folder of a training")
    _add_output(report, "FILE", "the HTML page to write", default="report.html")
    report.add_argument(
        "--eval", metavar="PATH", action="append", default=[], help="report of eval-harness; may be repeated"
    )
    plot = _add(commands, "plot", _plot, "plot trainings over each other, seeds as bands")
    plot.add_argument("runs", metavar="RUN", nargs="+", help="output folder of a training")
    _add_output(plot, "DIR", "folder for the figures")


def _flags(known: Namespace) -> list[str]:
    """The flags of a run, those of a trial included."""
    if known.processes < 1:
        raise UserError(f"--processes: got {known.processes}, expected a number >= 1")
    if known.processes > 1 and "--ray" in known.rest:
        raise UserError("--processes with --ray: expected --ray.gpus_per_node instead")
    if not known.smoke:
        return list(known.rest)
    from sparsepo_plugin.demo.smoke import smoke_flags

    return [*known.rest, *smoke_flags(known.smoke)]


def _train(known: Namespace) -> int:
    from sparsepo_plugin import train_dpo

    argv, processes = _flags(known), known.processes
    if processes == 1:
        return train_dpo.main(argv)
    # Checked here first: each process would only find out after its imports.
    from sparsepo_plugin.adapters.openrlhf import flags, preflight
    from sparsepo_plugin.adapters.openrlhf.processes import train

    preflight.check(flags.parse(argv), processes)
    return train(argv, processes)


def _validate(known: Namespace) -> None:
    from sparsepo_plugin.adapters.openrlhf import flags, preflight, validation

    parsed = flags.parse([word for word in _flags(known) if word != "--ray"])
    examined = preflight.examine(parsed, processes=known.processes)
    print("\n".join(validation.describe(examined, parsed.arguments, processes=known.processes)))
    loss = examined.objective
    print("valid: " + ("upstream's own loss" if loss is None else f"loss {loss.loss.name}, {loss.options}"))


def _export(known: Namespace) -> None:
    from sparsepo_plugin.adapters.openrlhf import quiet
    from sparsepo_plugin.adapters.openrlhf.export import export

    quiet.silence_bars()
    print(export(known.checkpoint, known.out, merge=known.merge))


def _sweep(known: Namespace) -> None:
    from sparsepo_plugin.sweep.run import sweep

    sweep(known.grid, known.output)


def _demo(known: Namespace) -> None:
    from sparsepo_plugin.demo import run

    run.demo(known.out, known.seed)


def _list(known: Namespace) -> None:
    if known.sites:
        from sparsepo_plugin.cli.sites import describe_sites

        print(describe_sites(known.sites))
    elif known.readme:
        for document in known.readme:
            losses.rewrite(document)
    else:
        print(losses.as_text(known.loss))


def _view(known: Namespace) -> None:
    from sparsepo_plugin.report.view.page import view

    view(known.record, known.output)


def _report(known: Namespace) -> None:
    from sparsepo_plugin.report.run_page import report

    report(known.runs, known.output, known.eval)


def _plot(known: Namespace) -> None:
    from sparsepo_plugin.report.plots.training import plot

    plot(known.runs, known.output)
