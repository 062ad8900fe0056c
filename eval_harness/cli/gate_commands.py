"""eval-harness compare | gate | report, and the gates part of validate."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_harness.cli.say import say
from eval_harness.errors import UserError
from eval_harness.files.places import check_folder, held

if TYPE_CHECKING:  # scipy is imported only by the commands that compute
    from eval_harness.gate.verdicts import Decision

GATE_HELP = "decide whether a run is as good as its baseline: exit 0 kept, 1 regressed, 2 error, 3 undecided"


def add_parsers(commands: Any) -> None:
    """Add the three commands to argparse's subparsers."""
    compare = commands.add_parser("compare", help="differences of two runs, RUN_A minus RUN_B, item by item")
    compare.add_argument("run", metavar="RUN_A", type=Path, help="the candidate's run folder")
    compare.add_argument("baseline", metavar="RUN_B", type=Path, help="the baseline's run folder")
    compare.add_argument("--gates", help="gates file or shipped name; default every task by itself")
    compare.add_argument("--json", action="store_true", help="print the whole comparison as JSON")
    _add_levels(compare)
    compare.set_defaults(call=_compare)
    gate = commands.add_parser("gate", help=GATE_HELP)
    gate.add_argument("run", metavar="A", type=Path, help=_RESULT)
    gate.add_argument("other", metavar="B", type=Path, nargs="?", help="the baseline's, of the same kind")
    gate.add_argument("--baseline", type=Path, help="the same as B; default A/baseline")
    gate.add_argument(
        "--gates", help="gates file (.yaml) or shipped name; with B default every task by itself"
    )
    gate.add_argument("--metric", action="append", default=[], help="which metric of a foreign result counts")
    gate.add_argument(
        "--cluster", metavar="COLUMN", help="equal for items of A and B that depend on each other"
    )
    _add_levels(gate)
    gate.add_argument("--undecided", choices=("exit", "pass", "fail"), default="exit", help=_UNDECIDED)
    gate.add_argument("--report", type=Path, help="folder of the reports; default A/report, or A.report")
    gate.set_defaults(call=_gate)
    report = commands.add_parser("report", help="write RUN's report: HTML, Markdown, JUnit XML, JSON")
    report.add_argument("run", metavar="RUN", type=Path, help="a run folder, after `gate` or with --baseline")
    report.add_argument("--baseline", type=Path, help="compare anew with this run; default RUN/baseline")
    report.add_argument("--gates", help="gates file or shipped name; default every task by itself")
    report.add_argument("--out", type=Path, help="default RUN/report")
    _add_levels(report)
    report.set_defaults(call=_report)


_RESULT = "the candidate's run folder, lm-eval folder, Inspect log, alpaca_eval annotations or JSON Lines"
_UNDECIDED = "what UNDECIDED means: exit code 3 (default), pass (0) or fail (1)"


def _add_levels(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--margin", type=float, help="without --gates: largest acceptable drop; default 0.05")
    sub.add_argument("--alpha", type=float, help="without --gates: one-sided level; default 0.05")


def add_power(sub: argparse.ArgumentParser) -> None:
    """Add the options with which `validate` checks gates."""
    sub.add_argument("--gates", help="check a gates file (or shipped name) and the power of its gates")
    sub.add_argument("--run", type=Path, help="with --gates: take item counts from this run")
    sub.add_argument("--allow-low-power", action="store_true", help="accept gates with power below 0.8")


def _compare(args: argparse.Namespace) -> int:
    """Print a comparison. Differences are no verdict: the exit code is 0 whatever they are."""
    from eval_harness.gate.reports.wording import table

    decision = _decision(args)
    say(json.dumps(decision.to_json(), indent=1) if args.json else table(decision))
    return 0


def _gate(args: argparse.Namespace) -> int:
    """Decide, write the reports, print the verdict; return its exit code."""
    from eval_harness.gate.gates import load_gates
    from eval_harness.gate.paths import check_results, gate
    from eval_harness.gate.reports.files import discard_reports, write_reports
    from eval_harness.gate.reports.wording import table

    if args.other and args.baseline:
        raise UserError("the baseline", got="B and --baseline", expected="one of the two")
    if not (args.other or args.gates):
        raise UserError("the following arguments are required: --gates", remedy="eval-harness gate --help")
    # Before the report's folder, which lies in the run's, is made, or an earlier report goes.
    check_results(filter(None, (args.run, args.other or args.baseline)))
    folder = args.report or (
        args.run.with_name(f"{args.run.name}.report") if args.run.is_file() else args.run / "report"
    )
    check_folder(folder, "--report")
    # A gates file that cannot be read is found before an earlier report goes.
    gates = load_gates(args.gates) if args.gates else None
    with held(folder, "--report"):
        discard_reports(folder)
        decision = gate(
            args.run,
            args.other or args.baseline or args.run / "baseline",
            gates,
            margin=args.margin,
            alpha=args.alpha,
            metrics=args.metric,
            cluster=args.cluster,
            undecided=args.undecided,
        )
        page = write_reports(folder, decision)
    say(f"{table(decision)}\nreport: {page}")
    return decision.exit_code


def _report(args: argparse.Namespace) -> int:
    """Write the reports of the last `gate`, or of a new comparison; the exit code is 0 whatever they say."""
    from eval_harness.gate.reports.files import read_decision, write_reports
    from eval_harness.run.folder import read_result

    folder = args.out or args.run / "report"
    check_folder(folder, "--out")
    anew = args.baseline or args.gates or args.margin is not None or args.alpha is not None
    stored = None if anew else read_decision(args.run / "report")
    if stored is not None and stored.candidate.key != read_result(args.run).key:
        raise UserError(
            "the report is of another run",
            got=f"run {stored.candidate.key[:12]}",
            expected=f"run {read_result(args.run).key[:12]}, which lies in {args.run}",
            remedy="eval-harness gate RUN --baseline RUN --gates FILE",
        )
    decision = stored if stored is not None else _decision(args)
    say(f"{decision.verdict}  report: {write_reports(folder, decision)}")
    return 0


def _decision(args: argparse.Namespace) -> "Decision":
    from eval_harness.gate.decide import decide
    from eval_harness.gate.gates import load_gates
    from eval_harness.gate.paths import gate_per_task, read_own

    if args.gates and (args.margin is not None or args.alpha is not None):
        raise UserError("--margin and --alpha", got="--gates too", expected="one of the two ways")
    gates = load_gates(args.gates) if args.gates else None
    candidate, baseline = read_own(args.run, args.baseline or args.run / "baseline")
    return decide(candidate, baseline, gates or gate_per_task(baseline.result, args.margin, args.alpha))


def validate_gates(args: argparse.Namespace) -> list[str]:
    """Lines on the power of a gates file."""
    from eval_harness.gate.gates import check_power, load_gates
    from eval_harness.run.folder import read_result

    counts = None
    if args.run is not None:
        counts = {s.task: s.n for s in read_result(args.run).scores if not s.is_group}
    return check_power(load_gates(args.gates), counts, args.allow_low_power)
