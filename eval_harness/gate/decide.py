"""Runs and gates in, a decision out; pure."""

import dataclasses
import math
from typing import NamedTuple

from eval_harness.errors import UserError
from eval_harness.gate.compare import (
    AGAIN,
    FinishedRun,
    PairedItem,
    check_mean,
    differences,
    observations,
    pair_runs,
)
from eval_harness.gate.flips import flips_of
from eval_harness.gate.gates import Gate, GateFile
from eval_harness.gate.hollow import judged_enough, undecidable, why_hollow
from eval_harness.gate.verdicts import (
    KEPT,
    REGRESSED,
    UNDECIDED,
    Decision,
    Mapped,
    Outcome,
    RunId,
    Verdict,
    overall,
)
from eval_harness.stats.multiple import holm
from eval_harness.stats.paired import BETTING, NO_TEST, Paired, paired
from eval_harness.stats.power import items_to_decide
from eval_harness.types import Score, SuiteResult

Items = dict[str, list[PairedItem]]  # by task
FEW_CLUSTERS = 30  # effective ones; below, hardly any drop of a whole cluster can be excluded
UNEVEN = 0.8  # effective clusters per cluster, below which sizes differ enough to matter


def decide(
    candidate: FinishedRun, baseline: FinishedRun, file: GateFile, undecided: Mapped = "exit"
) -> Decision:
    """Compare two runs by the gates of a file.

    Args:
      candidate: the run under test.
      baseline: what it is measured against.
      file: gates and alpha.
      undecided: what UNDECIDED means: exit, pass or fail.

    Raises:
      UserError: anything that keeps the runs from being compared item by item; never a verdict.
    """
    pairs = pair_runs(candidate, baseline)
    measured = [measure(gate, pairs, candidate, baseline, file.alpha) for gate in file.gates]
    return conclude(candidate, baseline, file, pairs, measured, undecided)


def conclude(
    candidate: FinishedRun,
    baseline: FinishedRun,
    file: GateFile,
    pairs: Items,
    measured: list["Measured"],
    undecided: Mapped,
) -> Decision:
    """The decision that follows from each gate's comparison, in the file's order."""
    adjusted = holm([one.compared.p for one in measured])
    gates, chosen = [], []
    for gate, one, p_holm in zip(file.gates, measured, adjusted, strict=True):
        pooled = one.pooled
        verdict = _verdict(gate, one, len(pooled), p_holm, file)
        made = judged_enough(verdict, pooled, candidate.result)
        reasons = why_hollow(made, one.scores, one.constant, (candidate, baseline))
        gates.append(undecidable(made, reasons))
        chosen += flips_of(gate.name, pooled, one.metric, one.scores[0].higher_is_better)
    ours = candidate.result
    return Decision(
        verdict=overall(tuple(gates)),
        alpha=file.alpha,
        undecided=undecided,
        suite=ours.suite,
        preset=ours.preset,
        preset_version=ours.preset_version,
        candidate=_run_id(ours),
        baseline=_run_id(baseline.result),
        gates=tuple(gates),
        flips=tuple(chosen),
        notes=tuple(_notes(candidate, baseline, file, pairs)),
        facts=ours.facts,
        versions=dict(ours.versions),
    )


def _run_id(result: SuiteResult) -> RunId:
    return RunId(result.model.label, result.model.weights, result.key, result.started)


def _notes(candidate: FinishedRun, baseline: FinishedRun, file: GateFile, pairs: Items) -> list[str]:
    notes = differences(candidate.result, baseline.result)
    covered = {task for gate in file.gates for task in gate.select(list(pairs))}
    if free := [task for task in pairs if task not in covered]:
        notes.append(f"{len(free)} of {len(pairs)} tasks have no gate: {', '.join(free[:5])}")
    return notes + [f"{run.name}: {note}" for run in (candidate, baseline) for note in run.result.notes]


class Measured(NamedTuple):
    """The pooled items and their comparison, the metric, and the baseline's scores of the gate's tasks."""

    compared: Paired
    metric: str
    scores: list[Score]
    constant: bool  # every entry of both runs is the same number
    pooled: list[PairedItem]


def measure(
    gate: Gate, pairs: Items, candidate: FinishedRun, baseline: FinishedRun, alpha: float
) -> Measured:
    """Compare the items of one gate. Raises UserError: no such task or metric, items without a value."""
    tasks = gate.select(list(pairs))
    metric = gate.metric or _main_metric(gate, tasks, baseline.result)
    judged, scores = candidate.result.max_unjudged is not None, []
    for task in tasks:
        known = {s.metric: s for s in baseline.result.scores if s.task == task and not s.is_group}
        if metric not in known:
            raise UserError(
                f"gate {gate.name}: no such metric", got=metric, expected=", ".join(sorted(known))
            )
        scores.append(known[metric])
    if len({score.higher_is_better for score in scores}) > 1:
        raise UserError(
            f"gate {gate.name}: metrics of opposite direction", got=metric, expected="one direction"
        )
    pooled = [pair for task in tasks for pair in pairs[task]]
    oriented = observations(pooled, metric, scores[0].higher_is_better, judged=judged)
    if not oriented.candidate:
        raise UserError(f"gate {gate.name}: no item has a judgement", got=", ".join(tasks), remedy=AGAIN)
    for task in tasks:
        for side, run in enumerate((candidate, baseline)):
            check_mean(run, [pair[side] for pair in pairs[task]], task, metric, judged)
    constant = len({*oriented.candidate, *oriented.baseline}) == 1
    compared = as_measured(paired(*oriented, alpha), scores[0].higher_is_better)
    return Measured(compared, metric, scores, constant, pooled)


def as_measured(compared: Paired, higher_is_better: bool) -> Paired:
    """Scores are turned for the test only: a table shows the means of the metric itself."""
    if higher_is_better:
        return compared
    return dataclasses.replace(compared, baseline=1.0 - compared.baseline, candidate=1.0 - compared.candidate)


def _main_metric(gate: Gate, tasks: list[str], result: SuiteResult) -> str:
    main = sorted({s.metric for s in result.scores if s.task in tasks and s.main and not s.is_group})
    if len(main) != 1:
        raise UserError(
            f"gate {gate.name}: which metric", got="none named", expected=f"metric: one of {', '.join(main)}"
        )
    return main[0]


def verdict_of(compared: Paired, p_holm: float, margin: float, alpha: float) -> Outcome:
    """KEPT when the interval excludes a drop of `margin`; else REGRESSED when Holm's p is below alpha."""
    if compared.low > -margin:
        return KEPT
    return REGRESSED if p_holm < alpha else UNDECIDED


def _verdict(gate: Gate, measured: Measured, items: int, p_holm: float, file: GateFile) -> Verdict:
    compared, metric, scores = measured.compared, measured.metric, measured.scores
    verdict = verdict_of(compared, p_holm, gate.margin, file.alpha)
    notes = []
    if not scores[0].higher_is_better:
        notes.append(f"{metric}: smaller is better; the difference is turned, so that below 0 is worse")
    if verdict == KEPT and p_holm < file.alpha:
        notes.append("a significant drop, but inside the margin")
    if compared.method == NO_TEST:
        notes.append("all items share one cluster: nothing can be inferred")
    elif compared.clusters < compared.n and compared.method != BETTING:
        notes += _cluster_notes(compared)
    if gate.superior:
        better = "lies" if verdict == KEPT else "does not lie"
        notes.append(f"KEPT asks for superiority: the interval {better} above 0")
    elif compared.low > 0:
        notes.append("better than the baseline: the interval lies above 0")
    if gate.items is not None and items < gate.items:
        notes.append(f"{items} items, planned for {gate.items}")
    if all(score.main and score.at_floor for score in scores):
        notes.append("the baseline is at or below chance: a loss cannot be seen here")
    return Verdict(
        name=gate.name,
        tasks=tuple(score.task for score in scores),
        metric=metric,
        margin=gate.margin,
        blocking=gate.blocking,
        verdict=verdict,
        items=items,
        planned=gate.items,
        paired=compared,
        p_holm=p_holm,
        needed=needed(compared, items, gate.margin, file) if verdict == UNDECIDED else None,
        notes=tuple(notes),
    )


def _cluster_notes(compared: Paired) -> list[str]:
    """What the clusters' number and sizes mean for the error rates, by docs/gate-error-rates.md."""
    notes, said = [], f"{compared.clusters} clusters that say as much as {compared.effective:.0f} of one size"
    if compared.effective < FEW_CLUSTERS:
        notes.append(f"{said}: few, so a change must be large to be decided")
    if compared.effective < UNEVEN * compared.clusters:
        notes.append(f"{said}: false KEPT up to 0.08 if large clusters change more than small ones")
    return notes


def needed(compared: Paired, items: int, margin: float, file: GateFile) -> int | None:
    """Documents that would decide with probability 0.8 if everything stayed as measured."""
    if compared.method in (NO_TEST, BETTING) or (margin == 0 and compared.difference == 0):
        return None
    count = items_to_decide(compared, margin, file.alpha, len(file.gates))
    return max(items + 1, math.ceil(count * items / compared.n))
