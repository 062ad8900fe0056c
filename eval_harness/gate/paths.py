"""Two results on disk, of ours or of another program, to a decision: what `eval_harness.gate(a, b)` calls."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError, refused
from eval_harness.gate.compare import FinishedRun
from eval_harness.gate.decide import decide
from eval_harness.gate.foreign.formats import check_there, read_foreign
from eval_harness.gate.foreign.pairing import as_runs, check_one_metric
from eval_harness.gate.gates import ALPHA, MARGIN, GateFile, default_gates, load_gates, parse_gates
from eval_harness.gate.verdicts import Decision, Mapped
from eval_harness.run.folder import ITEMS, RESULT, read_items, read_result
from eval_harness.types import SuiteResult

Result = str | os.PathLike[str]
Gates = str | os.PathLike[str] | Mapping[str, Any] | GateFile


def gate(
    a: Result,
    b: Result,
    gates: Gates | None = None,
    *,
    margin: float | None = None,
    alpha: float | None = None,
    metrics: Sequence[str] = (),
    cluster: str | None = None,
    undecided: Mapped = "exit",
) -> Decision:
    """Decide whether a result is as good as another one; nothing is written.

    Args:
      a: the candidate's: a run folder, a folder of lm-eval, a log of Inspect, annotations of alpaca_eval, or
        JSON Lines with `id` and `score`.
      b: the baseline's, of the same kind.
      gates: a gates file (.yaml), the name of a shipped one, its content as a mapping; None: a gate per task.
      margin: without gates, the largest acceptable drop; 0.05 where None.
      alpha: without gates, the one-sided level; 0.05 where None.
      metrics: which metric of a foreign result counts where a task has several and no gate names one.
      cluster: a column of foreign items, equal for items that depend on each other.
      undecided: what UNDECIDED means to `exit_code`: exit (3), pass (0) or fail (1).

    Returns:
      The decision: `verdict` is "KEPT", "REGRESSED" or "UNDECIDED", `exit_code` what the command line exits
      with, `gates` has every gate's difference, interval and p.

    Raises:
      UserError: anything that keeps the two from being compared item by item; never a verdict.
    """
    if gates is not None and (margin is not None or alpha is not None):
        raise UserError("margin and alpha", got="a gates file too", expected="one of the two ways")
    candidate, baseline = read_pair(Path(a), Path(b), metrics, cluster)
    file = _gates(gates)
    if file is None:
        if candidate.result.model.kind == "foreign":
            check_one_metric(baseline.result)
        file = gate_per_task(baseline.result, margin, alpha)
    return decide(candidate, baseline, file, undecided)


def check_results(paths: Iterable[Path]) -> None:
    """Raise UserError unless each is a file or a folder; nothing is read."""
    for path in paths:
        check_there(path)


def _gates(gates: Gates | None) -> GateFile | None:
    if gates is None or isinstance(gates, GateFile):
        return gates
    return parse_gates(dict(gates)) if isinstance(gates, Mapping) else load_gates(os.fspath(gates))


def read_pair(
    a: Path, b: Path, metrics: Sequence[str] = (), cluster: str | None = None
) -> tuple[FinishedRun, FinishedRun]:
    """Candidate and baseline, in whichever format both are. Raises UserError: see `gate`."""
    try:
        return _read_pair(a, b, metrics, cluster)
    except (OSError, MemoryError) as error:
        raise refused(error) from error


def _read_pair(
    a: Path, b: Path, metrics: Sequence[str], cluster: str | None
) -> tuple[FinishedRun, FinishedRun]:
    if not any((path / name).is_file() for path in (a, b) for name in (RESULT, ITEMS)):
        return as_runs(read_foreign(a, cluster), read_foreign(b, cluster), metrics)
    if cluster is not None or metrics:
        raise UserError(
            "--cluster and --metric", got="a run folder of ours", expected="a foreign result",
            remedy="name the metric in a gates file; the preset names the cluster",
        )  # fmt: skip
    return read_own(a, b)


def read_own(a: Path, b: Path) -> tuple[FinishedRun, FinishedRun]:
    """Candidate and baseline from run folders of ours. Raises UserError: unfinished or damaged ones."""
    results = read_result(a), read_result(b)
    return FinishedRun("candidate", results[0], read_items(a)), FinishedRun(
        "baseline", results[1], read_items(b)
    )


def gate_per_task(baseline: SuiteResult, margin: float | None, alpha: float | None) -> GateFile:
    """What is decided without a gates file; None stands for the default."""
    return default_gates(baseline, MARGIN if margin is None else margin, ALPHA if alpha is None else alpha)
