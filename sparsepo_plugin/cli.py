"""``sparsepo train | validate | export | ls | demo | view | plot | sweep``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sparsepo_plugin import __version__, loss_table, reports
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.main import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (2: bad input, 1: the run failed)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="sparsepo", description="SparsePO: learned weights for every token."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train", add_help=False, help="train; takes --config FILE and OpenRLHF's flags"
    )
    train.add_argument("--processes", type=int, default=1, help="processes on this machine (torchrun)")
    train.add_argument(
        "--smoke", metavar="DIR", help="try the configuration on a tiny model and generated data"
    )
    train.add_argument("--resume", action="store_true", help="go on from the last complete checkpoint")
    commands.add_parser(
        "validate", add_help=False, help="check a configuration; loads no model, writes nothing"
    )
    export = commands.add_parser("export", help="turn a DeepSpeed checkpoint into a Hugging Face folder")
    export.add_argument("--checkpoint", type=Path, required=True, help="--ckpt.path of a run, or one of it")
    export.add_argument("--out", type=Path, required=True, help="new folder")
    export.add_argument("--merge", action="store_true", help="merge a LoRA adapter into its base")
    ls = commands.add_parser("ls", help="list losses with needs and options")
    ls.add_argument(
        "--sites", metavar="MODEL", help="list where MaPO records this model's activations instead"
    )
    ls.add_argument(
        "--readme", type=Path, nargs="+", help="rewrite the tables between these files' markers instead"
    )
    demo = commands.add_parser("demo", help="train a tiny model on generated data with planted tokens")
    demo.add_argument("--out", default="runs/demo", help="output folder")
    demo.add_argument("--seed", type=int, default=0)
    reports.add_parsers(commands)
    known, rest = parser.parse_known_args(arguments)
    if rest and known.command not in ("train", "validate"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if known.command == "train":
        resume = ["--ckpt.load_enable"] if known.resume else []
        return _train(known.processes, [*rest, *resume], known.smoke)
    if known.command == "validate":
        return guarded(lambda: _validate(rest))
    if known.command == "export":
        return guarded(lambda: _export(known.checkpoint, known.out, known.merge))
    if known.command == "demo":
        return guarded(lambda: _demo(known.out, known.seed))
    if known.command in reports.COMMANDS:
        return guarded(lambda: reports.run(known))
    return guarded(lambda: _list(known.sites, known.readme))


def _train(processes: int, argv: list[str], smoke: str | None) -> int:
    from sparsepo_plugin import train_dpo

    if smoke:
        from sparsepo_plugin.demo.smoke import smoke_flags

        argv = [*argv, *smoke_flags(smoke)]
    if processes > 1 and "--ray" in argv:
        return guarded(lambda: _refuse("--processes with --ray: expected --ray.gpus_per_node instead"))
    if processes == 1:
        return train_dpo.main(argv)
    if processes < 1:
        return guarded(lambda: _refuse(f"--processes: got {processes}, expected a number >= 1"))
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
    ]
    # Checked here first: a launcher turns every exit code of its processes into 1.
    code = guarded(lambda: _check(argv, processes))
    return (
        code or subprocess.run([*launcher, "-m", "sparsepo_plugin.train_dpo", *argv], check=False).returncode
    )


def _refuse(message: str) -> None:
    raise UserError(message)


def _check(argv: list[str], processes: int) -> None:
    from sparsepo_plugin.adapters.openrlhf import flags, preflight

    preflight.check(flags.parse(argv), processes)


def _validate(argv: list[str]) -> None:
    from sparsepo_plugin.adapters.openrlhf import flags, preflight, validation

    parsed = flags.parse(argv)
    examined = preflight.examine(parsed, processes=1)
    print("\n".join(validation.describe(examined, parsed.arguments, processes=1)))
    objective = examined.objective
    loss = "upstream's own loss" if objective is None else f"loss {objective.loss.name}, {objective.options}"
    print(f"valid: {loss}")


def _export(source: Path, out: Path, merge: bool) -> None:
    from sparsepo_plugin.adapters.openrlhf.export import export

    print(export(source, out, merge=merge))


def _demo(out: str, seed: int) -> None:
    from sparsepo_plugin.demo import run

    run.demo(out, seed)


def _list(model: str | None, readme: list[Path] | None) -> None:
    if model:
        from sparsepo_plugin.forward.sites import describe_sites

        print(describe_sites(model))
    elif readme:
        for document in readme:
            loss_table.rewrite(document)
    else:
        print(loss_table.as_text())
