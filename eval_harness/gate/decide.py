"""Runs and gates in, a decision out; pure."""

import dataclasses
import math

from eval_harness.errors import UserError
from eval_harness.gate.compare import (
    AGAIN,
    Pair,
    Run,
    check_mean,
    differences,
    item_value,
    observations,
    pair_runs,
    unjudged,
)
from eval_harness.gate.gates import Gate, GateFile
from eval_harness.gate.verdicts import KEPT, REGRESSED, UNDECIDED, Decision, Flip, RunId, Verdict, overall
from eval_harness.stats.multiple import holm
from eval_harness.stats.paired import NO_TEST, Paired, paired
from eval_harness.stats.power import items_to_decide
from eval_harness.types import Score, SuiteResult

FLIPS = 25  # of either kind, per gate
FEW_CLUSTERS = 30  # effective ones; below, hardly any drop of a whole cluster can be excluded
UNEVEN = 0.8  # effective clusters per cluster, below which sizes differ enough to matter


def decide(
    candidate: Run, baseline: Run, file: GateFile, undecided: str = "exit", flips: int = FLIPS
) -> Decision:
    """Compare two runs by the gates of a file.

    Args:
      candidate: the run under test.
      baseline: what it is measured against.
      file: gates and alpha.
      undecided: what UNDECIDED means: exit, pass or fail.
      flips: documents kept per gate and kind for the report.

    Raises:
      UserError: anything that keeps the runs from being compared item by item; never a verdict.
    """
    pairs = pair_runs(candidate, baseline)
    measured = [_measure(gate, pairs, candidate, baseline, file.alpha) for gate in file.gates]
    adjusted = holm([found.p for found, _, _ in measured])
    gates, chosen = [], []
    for gate, (found, metric, scores), p_holm in zip(file.gates, measured, adjusted, strict=True):
        tasks = gate.select(list(pairs))
        own = [pair for task in tasks for pair in pairs[task]]
        made = _verdict(gate, found, metric, scores, len(own), p_holm, file)
        gates.append(_judged_enough(made, own, candidate.result))
        chosen += _flips(gate.name, own, metric, scores[0].higher_is_better, flips)
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


def _notes(candidate: Run, baseline: Run, file: GateFile, pairs: dict[str, list[Pair]]) -> list[str]:
    notes = differences(candidate.result, baseline.result)
    covered = {task for gate in file.gates for task in gate.select(list(pairs))}
    if free := [task for task in pairs if task not in covered]:
        notes.append(f"{len(free)} of {len(pairs)} tasks have no gate: {', '.join(free[:5])}")
    return notes + [f"{run.name}: {note}" for run in (candidate, baseline) for note in run.result.notes]


def _measure(
    gate: Gate, pairs: dict[str, list[Pair]], candidate: Run, baseline: Run, alpha: float
) -> tuple[Paired, str, list[Score]]:
    """The pooled comparison, the metric, and the baseline's scores of the gate's tasks."""
    tasks = gate.select(list(pairs))
    metric = gate.metric or _main_metric(gate, tasks, baseline.result)
    judged, scores = candidate.result.settings.get("max_unjudged") is not None, []
    for task in tasks:
        known = {s.metric: s for s in baseline.result.scores if s.task == task}
        if metric not in known:
            raise UserError(
                f"gate {gate.name}: no such metric", got=metric, expected=", ".join(sorted(known))
            )
        scores.append(known[metric])
        own = observations(pairs[task], metric, judged=judged)
        for run, values in ((candidate, own.candidate), (baseline, own.baseline)):
            check_mean(run, task, metric, values)
    if len({score.higher_is_better for score in scores}) > 1:
        raise UserError(
            f"gate {gate.name}: metrics of opposite direction", got=metric, expected="one direction"
        )
    pooled = (pair for task in tasks for pair in pairs[task])
    found = observations(pooled, metric, scores[0].higher_is_better, judged=judged)
    if not found.candidate:
        raise UserError(f"gate {gate.name}: no item has a judgement", got=", ".join(tasks), remedy=AGAIN)
    return paired(*found, alpha), metric, scores


def _main_metric(gate: Gate, tasks: list[str], result: SuiteResult) -> str:
    main = sorted({s.metric for s in result.scores if s.task in tasks and s.normalised is not None})
    if len(main) != 1:
        raise UserError(
            f"gate {gate.name}: which metric", got="none named", expected=f"metric: one of {', '.join(main)}"
        )
    return main[0]


def _judged_enough(made: Verdict, own: list[Pair], result: SuiteResult) -> Verdict:
    """The verdict, or UNDECIDED where more comparisons than stated have no judgement.

    Who is judged may depend on who would win: beyond a small share the rest proves nothing.
    """
    limit = result.settings.get("max_unjudged")
    missing = sum(unjudged(pair, made.metric) for pair in own)
    if limit is None or not missing:
        return made
    note = f"{missing} of {len(own)} comparisons have no judgement"
    if missing <= limit * len(own):
        return dataclasses.replace(made, notes=(*made.notes, note))
    note += f", more than the share of {limit:g} that is accepted"
    return dataclasses.replace(made, verdict=UNDECIDED, needed=None, notes=(*made.notes, note))


def judge(found: Paired, p_holm: float, margin: float, alpha: float) -> str:
    """KEPT when the interval excludes a drop of `margin`; else REGRESSED when Holm's p is below alpha."""
    if found.low > -margin:
        return KEPT
    return REGRESSED if p_holm < alpha else UNDECIDED


def _verdict(
    gate: Gate, found: Paired, metric: str, scores: list[Score], items: int, p_holm: float, file: GateFile
) -> Verdict:
    verdict = judge(found, p_holm, gate.margin, file.alpha)
    notes = []
    if verdict == KEPT and p_holm < file.alpha:
        notes.append("a significant drop, but inside the margin")
    if found.method == NO_TEST:
        notes.append("all items share one cluster: nothing can be inferred")
    elif found.clusters < found.n:
        notes += _cluster_notes(found)
    if gate.superior:
        better = "lies" if verdict == KEPT else "does not lie"
        notes.append(f"KEPT asks for superiority: the interval {better} above 0")
    elif found.low > 0:
        notes.append("better than the baseline: the interval lies above 0")
    if gate.items is not None and items < gate.items:
        notes.append(f"{items} items, planned for {gate.items}")
    if all(score.normalised == 0.0 for score in scores):
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
        paired=found,
        p_holm=p_holm,
        needed=needed(found, items, gate.margin, file) if verdict == UNDECIDED else None,
        notes=tuple(notes),
    )


def _cluster_notes(found: Paired) -> list[str]:
    """What the clusters' number and sizes mean for the error rates, by docs/gate-error-rates.md."""
    notes, said = [], f"{found.clusters} clusters that say as much as {found.effective:.0f} of one size"
    if found.effective < FEW_CLUSTERS:
        notes.append(f"{said}: few, so a change must be large to be decided")
    if found.effective < UNEVEN * found.clusters:
        notes.append(f"{said}: false KEPT up to 0.08 if large clusters change more than small ones")
    return notes


def needed(found: Paired, items: int, margin: float, file: GateFile) -> int | None:
    """Documents that would decide with probability 0.8 if everything stayed as measured."""
    if found.method == NO_TEST or (margin == 0 and found.difference == 0):
        return None
    count = items_to_decide(found, margin, file.alpha, len(file.gates))
    return max(items + 1, math.ceil(count * items / found.n))


def _flips(gate: str, pairs: list[Pair], metric: str, higher_is_better: bool, most: int) -> list[Flip]:
    """Documents that changed most, lost ones first; ties in document order."""
    lost: list[Flip] = []
    gained: list[Flip] = []
    for pair in pairs:
        if unjudged(pair, metric):
            continue
        ours, theirs = (item_value(item, metric) for item in pair)
        if ours == theirs:
            continue
        worse = (ours < theirs) == higher_is_better
        item = pair.candidate
        flip = Flip(
            gate,
            item.task,
            item.doc_id,
            "lost" if worse else "gained",
            item.prompt,
            item.target,
            tuple(item.choices),
            pair.baseline.outputs,
            item.outputs,
            theirs,
            ours,
            *(tuple(side.evidence.get(metric.partition(",")[0], ())) for side in reversed(pair)),
        )
        (lost if worse else gained).append(flip)
    return sorted(lost, key=_change)[:most] + sorted(gained, key=_change)[:most]


def _change(flip: Flip) -> float:
    return -abs(flip.candidate_value - flip.baseline_value)
