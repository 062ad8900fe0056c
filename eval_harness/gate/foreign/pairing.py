"""Two foreign results as two finished runs, or the reason why their items cannot be paired with certainty."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from eval_harness.errors import UserError
from eval_harness.gate.compare import FinishedRun
from eval_harness.gate.foreign.results import ForeignItem, ForeignRun, sha
from eval_harness.types import ItemRecord, ModelIdentity, Score, SuiteResult

SAME = "measure both models on the same items in the same way"


def as_runs(
    candidate: ForeignRun, baseline: ForeignRun, metrics: Sequence[str] = ()
) -> tuple[FinishedRun, FinishedRun]:
    """Pair by task and id, and check what stands behind an id.

    Args:
      candidate: the result under test.
      baseline: what it is measured against.
      metrics: names (`acc_norm` or `acc_norm,none`) that a comparison without a gates file looks at.

    Raises:
      UserError: other formats, items, order or prompts; a prompt on one side only; no such metric.
    """
    if candidate.format != baseline.format:
        raise UserError(
            "results of two programs", got=f"{candidate.format} and {baseline.format}", expected="of one"
        )
    ours, theirs = ([(item.task, item.id) for item in run.items] for run in (candidate, baseline))
    _check_same(candidate, baseline, ours, theirs)
    for mine, other in zip(candidate.items, baseline.items, strict=True):
        _check_question(mine, other)
    tasks = list(dict.fromkeys(task for task, _ in ours))
    known = {key: number for task in tasks for number, key in enumerate(k for k in ours if k[0] == task)}
    return (
        _finished("candidate", candidate, known, metrics),
        _finished("baseline", baseline, known, metrics),
    )


def _check_same(
    candidate: ForeignRun, baseline: ForeignRun, ours: list[tuple[str, str]], theirs: list[tuple[str, str]]
) -> None:
    if odd := sorted(set(ours) ^ set(theirs)):
        lacking = "candidate" if odd[0] in set(theirs) else "baseline"
        raise UserError(
            f"items are missing in the {lacking}",
            got=f"{len(odd)} items in one result only, first {odd[0][1]} of {odd[0][0]}",
            expected="the same items in both results",
            remedy=SAME,
        )
    if ours != theirs:
        first = next(pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1])
        raise UserError(
            "the items stand in another order",
            got=f"{first[0][1]} in the candidate where the baseline has {first[1][1]}",
            expected="one order: ids that were given anew would pair other questions",
            remedy="sort both files by id, if an id means the same question in both",
        )


def _check_question(ours: ForeignItem, theirs: ForeignItem) -> None:
    for field in ("prompt_hash", "doc_hash", "target", "cluster"):
        first, second = getattr(ours, field), getattr(theirs, field)
        if first != second:
            got = f"another {field}" if first and second else f"a {field} on one side only"
            raise UserError(
                "the results do not ask the same",
                got=f"{ours.task} {ours.id}: {got}",
                expected="identical prompts and documents",
                remedy=SAME,
            )


def _finished(
    role: Literal["candidate", "baseline"],
    run: ForeignRun,
    numbers: dict[tuple[str, str], int],
    metrics: Sequence[str],
) -> FinishedRun:
    items = [_record(item, numbers[item.task, item.id]) for item in run.items]
    content = [[item.task, item.id, item.metrics, item.outputs] for item in run.items]
    key = sha(content)
    result = SuiteResult(
        suite=run.format,
        preset=", ".join(dict.fromkeys(item.task for item in run.items))[:80],
        preset_version=1,
        key=key,
        # No weights were seen: what was answered stands for the model.
        model=ModelIdentity("foreign", run.label, key, ""),
        scores=_chosen(run, metrics),
        settings=dict(run.asked),
        seeds={},
        versions=run.versions,
        environment={},
        counts={"items": len(items)},
        comparable=True,
        notes=run.notes,
        facts=(("read from", f"{run.format}: {run.path.name}"),),
        asked=tuple(run.asked),
        max_unjudged=run.max_unjudged,
    )
    return FinishedRun(role, result, items)


def _record(item: ForeignItem, number: int) -> ItemRecord:
    own = f"{item.task} {item.id}"
    return ItemRecord(
        task=item.task,
        doc_id=number,
        prompt_hash=item.prompt_hash,
        doc_hash=item.doc_hash,
        # The same prompt is the same question, in another task too.
        cluster=item.cluster or item.prompt_hash or own,
        metrics=item.metrics,
        outputs=item.outputs,
        target=item.target,
        prompt=item.prompt or f"id {item.id}",
        choices=item.choices,
    )


def _chosen(run: ForeignRun, metrics: Sequence[str]) -> tuple[Score, ...]:
    """All scores, those main that are named; without names each task must have one."""
    wanted = set(metrics)
    scores = [
        dataclasses.replace(score, main=bool({score.metric, score.metric.partition(",")[0]} & wanted))
        if wanted
        else score
        for score in run.scores
    ]
    known = sorted({score.metric for score in run.scores})
    lost = [name for name in metrics if not any(name in (m, m.partition(",")[0]) for m in known)]
    if lost or not known:
        raise UserError(
            "--metric", got=lost[0] if lost else "no metric", expected=", ".join(known) or "a score"
        )
    return tuple(scores)


def check_one_metric(result: SuiteResult) -> None:
    """Raise UserError where a comparison without a gates file would have to choose a metric."""
    for task in dict.fromkeys(score.task for score in result.scores):
        names = [s.metric for s in result.scores if s.task == task and s.main]
        if len(names) != 1:
            every = ", ".join(s.metric for s in result.scores if s.task == task)
            raise UserError(
                f"which metric of {task}",
                got=", ".join(names) or "none named",
                expected=f"one of {every}",
                remedy="--metric NAME, or a gates file",
            )
