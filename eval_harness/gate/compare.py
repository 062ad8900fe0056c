"""Two runs, item by item: the same documents under the same prompts, or an error; pure."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from eval_harness.errors import UserError
from eval_harness.types import NO_ANSWER, ItemRecord, SuiteResult

AGAIN = "measure both models with the same command (eval-harness run --model A --baseline B ...)"
_SAME_PROMPT = ("prompt_hash", "doc_hash", "target", "prompt")
# Settings that may move the last bits of a logit: a difference is only noted.
_NOTED = ("backend", "dtype", "batch_size", "device", "tensor_parallel", "data_parallel")


class FinishedRun(NamedTuple):
    """A finished run and its role."""

    name: Literal["candidate", "baseline"]
    result: SuiteResult
    items: list[ItemRecord]


class PairedItem(NamedTuple):
    """One document as both models answered it."""

    candidate: ItemRecord
    baseline: ItemRecord


class Observations(NamedTuple):
    """Scores in pairs, larger is better, and the cluster of each, all [observations]."""

    candidate: list[float]
    baseline: list[float]
    clusters: list[str]


def pair_runs(candidate: FinishedRun, baseline: FinishedRun) -> dict[str, list[PairedItem]]:
    """PairedItem all items by task, document and prompt: task -> pairs in document order.

    Raises:
      UserError: other preset, task version or generation settings; a task, document or answer missing on one
        side; another prompt, document or target; an item that failed.
    """
    _check_settings(candidate.result, baseline.result)
    ours, theirs = (_by_task(run) for run in (candidate, baseline))
    if set(ours) != set(theirs):
        lacking = candidate.name if set(theirs) - set(ours) else baseline.name
        task = sorted(set(ours) ^ set(theirs))[0]
        raise UserError(
            f"a task is missing in the {lacking}",
            got=f"{task} in one run only ({len(ours)} and {len(theirs)} tasks)",
            expected="the same tasks in both runs",
            remedy=AGAIN,
        )
    return {task: _pair_task(task, ours[task], theirs[task], (candidate, baseline)) for task in ours}


def _check_settings(ours: SuiteResult, theirs: SuiteResult) -> None:
    facts: list[tuple[str, object, object]] = [
        (name, getattr(ours, name), getattr(theirs, name)) for name in ("suite", "preset", "preset_version")
    ]
    facts.append(("lm-eval version", ours.versions.get("lm_eval"), theirs.versions.get("lm_eval")))
    asked = dict.fromkeys((*ours.asked, *theirs.asked))
    facts += [(name, ours.settings.get(name), theirs.settings.get(name)) for name in asked]
    facts += _shaping(ours, theirs)
    known = {(s.task, s.metric, s.is_group): (s.version, s.shots) for s in theirs.scores}
    # A score that one run lacks is a missing task or metric, reported as such later.
    facts += [
        (f"version and shots of {s.task}", (s.version, s.shots), known[s.task, s.metric, s.is_group])
        for s in ours.scores
        if (s.task, s.metric, s.is_group) in known
    ]
    for what, got, expected in facts:
        if got != expected:
            raise UserError(
                f"the runs differ in {what}",
                got=got,
                expected=f"{expected}, as in the baseline",
                remedy=AGAIN,
            )


def _shaping(ours: SuiteResult, theirs: SuiteResult) -> list[tuple[str, object, object]]:
    """Options of the engine that shape what is read or graded; older runs keep all options in one."""
    both = all("prompting" in result.settings for result in (ours, theirs))
    first, second = (result.settings.get("prompting" if both else "engine", {}) for result in (ours, theirs))
    return [(name, first.get(name), second.get(name)) for name in sorted({*first, *second})]


def differences(ours: SuiteResult, theirs: SuiteResult) -> list[str]:
    """Notes on settings and versions that differ and may move a few answers, but not the question asked."""
    notes = []
    for name in _NOTED:
        if ours.settings.get(name) != theirs.settings.get(name):
            notes.append(f"{name} differs: {ours.settings.get(name)} and {theirs.settings.get(name)}")
    first, second = (result.settings.get("numerics", {}) for result in (ours, theirs))
    for name in sorted({*first, *second}):
        if first.get(name) != second.get(name):
            notes.append(f"{name} differs: {first.get(name)} and {second.get(name)}")
    for name in sorted({*ours.versions, *theirs.versions}):
        if ours.versions.get(name) != theirs.versions.get(name):
            notes.append(f"{name} differs: {ours.versions.get(name)} and {theirs.versions.get(name)}")
    if ("prompting" in ours.settings) != ("prompting" in theirs.settings):
        notes.append("one run is of an older version, which left thinking in the texts it graded")
    if ours.seeds != theirs.seeds:
        notes.append("seeds differ")
    identity = (ours.model.weights, ours.model.adapter, ours.model.tokenizer)
    if identity == (theirs.model.weights, theirs.model.adapter, theirs.model.tokenizer):
        notes.append("candidate and baseline are the same model (equal weights)")
    return notes


def _by_task(run: FinishedRun) -> dict[str, dict[int, ItemRecord]]:
    """Items per task and document, complete and answered."""
    if run.result.counts.get("failed"):
        raise UserError(
            f"failed items in the {run.name}",
            got=f"{run.result.counts['failed']} requests without an answer",
            expected="0",
            remedy="run the same command again: only the failed ones are asked; where thinking used all new "
            "tokens, it needs more",
        )
    tasks: dict[str, dict[int, ItemRecord]] = {}
    for item in run.items:
        documents = tasks.setdefault(item.task, {})
        if item.doc_id in documents:
            raise UserError(f"an item is there twice in the {run.name}", got=f"{item.task} {item.doc_id}")
        if NO_ANSWER in item.outputs:
            raise UserError(f"a failed item in the {run.name}", got=f"{item.task} {item.doc_id}")
        documents[item.doc_id] = item
    for score in run.result.scores:
        if not score.is_group and len(tasks.get(score.task, {})) != score.n:
            raise UserError(
                f"items are missing in the {run.name}",
                got=f"{score.task}: {len(tasks.get(score.task, {}))} items",
                expected=f"{score.n}, as its result says",
                remedy="copy the run folder again, or run again with --overwrite",
            )
    return tasks


def _pair_task(
    task: str,
    ours: dict[int, ItemRecord],
    theirs: dict[int, ItemRecord],
    runs: tuple[FinishedRun, FinishedRun],
) -> list[PairedItem]:
    if missing := sorted(set(ours) ^ set(theirs)):
        lacking = runs[0].name if missing[0] in theirs else runs[1].name
        raise UserError(
            f"items are missing in the {lacking}",
            got=f"{task}: {len(missing)} documents in one run only, first {missing[0]}",
            expected="the same documents in both runs",
            remedy=AGAIN,
        )
    pairs = [PairedItem(ours[doc_id], theirs[doc_id]) for doc_id in sorted(ours)]
    for pair in pairs:
        for field in _SAME_PROMPT:
            if getattr(pair.candidate, field) != getattr(pair.baseline, field):
                raise UserError(
                    "the runs do not ask the same",
                    got=f"{task} {pair.candidate.doc_id}: another {field}",
                    expected="identical prompts and documents",
                    remedy=AGAIN,
                )
    return pairs


def observations(
    pairs: Iterable[PairedItem], metric: str, higher_is_better: bool = True, *, judged: bool = False
) -> Observations:
    """Scores of one metric; a list metric (IFEval's instructions) gives one observation per entry.

    With `judged` entries without a judgement are left out; else they are an error as any missing score.

    Raises:
      UserError: the metric is missing for an item, is not a number in [0, 1], or two lists differ in length.
    """
    scores = Observations([], [], [])
    for pair in pairs:
        values = [_values(item, metric, higher_is_better, judged) for item in pair]
        if len(values[0]) != len(values[1]):
            raise UserError(
                f"{metric} of {pair.candidate.task} {pair.candidate.doc_id}",
                got=f"{len(values[0])} and {len(values[1])} entries",
                expected="as many in both runs",
            )
        for ours, theirs in zip(*values, strict=True):
            if ours is not None and theirs is not None:
                scores.candidate.append(ours)
                scores.baseline.append(theirs)
                scores.clusters.append(pair.baseline.cluster)
    return scores


def _values(item: ItemRecord, metric: str, higher_is_better: bool, judged: bool) -> list[float | None]:
    """Entries, larger is better; None is a judgement that is missing, which only `judged` allows."""
    raw = item.metrics.get(metric)
    values: list[Any] = raw if isinstance(raw, list) else [raw]
    for entry in values:
        if entry is None and judged and metric in item.metrics:
            continue
        number = isinstance(entry, int | float) and math.isfinite(entry) and 0 <= entry <= 1
        if not number:
            raise UserError(
                f"{metric} of {item.task} {item.doc_id}",
                got=entry if raw is not None else f"none; there is {', '.join(sorted(item.metrics))}",
                expected="a number in [0, 1]",
                remedy="name the metric as `name,filter` in the gates file",
            )
    return [e if e is None else float(e) if higher_is_better else 1.0 - float(e) for e in values]


def item_value(item: ItemRecord, metric: str) -> float:
    """Score of one document, the mean of a list metric."""
    values = [value for value in _values(item, metric, True, False) if value is not None]
    return sum(values) / len(values) if values else 0.0


def check_mean(run: FinishedRun, items: Sequence[ItemRecord], task: str, metric: str, judged: bool) -> None:
    """Raise UserError unless the run's score of a task is the mean of its per-item values."""
    every = (value for item in items for value in _values(item, metric, True, judged))
    values = [value for value in every if value is not None]
    try:
        score = run.result.score(task, metric)
    except KeyError as error:
        raise UserError(f"a score is missing in the {run.name}", got=f"no {task} {metric}") from error
    mean = sum(values) / len(values) if values else math.nan
    if not math.isclose(score.value, mean, rel_tol=0.0, abs_tol=1e-6):
        raise UserError(
            f"items and result of the {run.name} do not belong together",
            got=f"{task} {metric}: mean of the items {mean:.6f}",
            expected=f"{score.value:.6f}, as its result says",
            remedy="compare metrics that are means over items; copy the run folder again",
        )
