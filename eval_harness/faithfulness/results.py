"""Graded summaries as items and scores that compare, gate and report read; pure."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Example, Metric, ScoredExample, Scorer, worst_first
from eval_harness.faithfulness.text.words import says_nothing
from eval_harness.models.identity import sha
from eval_harness.stats.clustered import clustered_mean, clusters_of
from eval_harness.types import ItemRecord, Score

RAW, UNIT = "none", "unit"


class Scored(NamedTuple):
    """One scorer, its digest, and its scores: task -> one entry per document.

    `undecidable` is the reason for which nothing follows from them, `failed` counts control questions
    without an answer.
    """

    scorer: Scorer
    digest: str
    graded: dict[str, list[ScoredExample]]
    undecidable: str = ""
    failed: int = 0


def gated_name(metric: Metric) -> str:
    """The metric's name in a gates file: one from -1 to 1 is gated as (x + 1) / 2."""
    return f"{metric.name},{RAW if metric.low >= 0 else UNIT}"


def _values(metric: Metric, graded: ScoredExample, silent: Sequence[bool]) -> dict[str, Any]:
    """Numbers of one metric under the names that items carry; a list where there is one per summary.

    Entailment and contradiction of a summary that says nothing are near 0, the middle of such a metric; what
    is gated counts it as the worst.
    """
    raw = list(graded.values[metric.name])
    named: dict[str, Any] = {f"{metric.name},{RAW}": raw if metric.per_summary else raw[0]}
    if metric.low < 0:
        unit = [None if value is None else min(1.0, max(0.0, (value + 1) / 2)) for value in raw]
        if metric.per_summary:
            unit = [0.0 if nothing else value for value, nothing in zip(unit, silent, strict=True)]
        named[gated_name(metric)] = unit if metric.per_summary else unit[0]
    return named


def item_records(
    task: str, cases: Sequence[Example], prompts: Sequence[str], scored: Sequence[Scored]
) -> list[ItemRecord]:
    """One record per document at one temperature.

    Args:
      task: its name.
      cases: in document order.
      prompts: of the same documents.
      scored: what every scorer said.
    """
    records = []
    for number, (case, prompt) in enumerate(zip(cases, prompts, strict=True)):
        metrics: dict[str, Any] = {}
        evidence: dict[str, list[Any]] = {}
        silent = [says_nothing(summary, case.document) for summary in case.summaries]
        for scorer, _, graded, *_ in scored:
            example = graded[task][number]
            for metric in scorer.metrics:
                metrics |= _values(metric, example, silent)
            if worst := worst_first([sentence for summary in example.evidence for sentence in summary]):
                evidence[scorer.metrics[0].name] = [list(sentence) for sentence in dict.fromkeys(worst)]
        records.append(
            ItemRecord(
                task=task,
                doc_id=number,
                prompt_hash=sha(prompt),
                doc_hash=sha(json.dumps([case.document, case.reference])),
                cluster=f"document:{sha(case.document)[:16]}",
                metrics=metrics,
                outputs=list(case.summaries),
                target=case.reference or "",
                prompt=prompt,
                evidence=evidence,
            )
        )
    return records


def scores_of(task: str, items: Sequence[ItemRecord], scored: Sequence[Scored]) -> list[Score]:
    """Means over all summaries of a task, with standard errors and 95 % intervals by document.

    Raises:
      UserError: no judge has rated a single one.
    """
    scores = []
    for one in scored:
        for metric in one.scorer.metrics:
            names = dict.fromkeys((f"{metric.name},{RAW}", gated_name(metric)))
            for name in names:
                scores.append(_score(task, name, items, metric, one))
    return scores


def _score(task: str, name: str, items: Sequence[ItemRecord], metric: Metric, scored: Scored) -> Score:
    entries = [item.metrics[name] for item in items]
    lists = [entry if isinstance(entry, list) else [entry] for entry in entries]
    given = [
        (number, value) for number, of_item in enumerate(lists) for value in of_item if value is not None
    ]
    if not given:
        raise UserError(
            f"no summary of {task} has a rating",
            got=f"{sum(map(len, lists))} answers that failed or cannot be read",
            expected="ratings",
            remedy="check judge and template, then run again: answers that failed are asked again",
        )
    documents = [number for number, _ in given]
    estimate = clustered_mean(np.array([value for _, value in given]), clusters_of(documents))
    reach = float(stats.t.ppf(0.975, estimate.df)) * estimate.stderr if estimate.df else None
    return Score(
        task=task,
        metric=name,
        value=estimate.mean,
        stderr=estimate.stderr if estimate.df else None,
        n=len(items),
        higher_is_better=metric.higher_is_better,
        main=metric.main and name == gated_name(metric),
        version=scored.digest,
        judged=metric.judged,
        undecidable=scored.undecidable if metric.judged else "",
        low=None if reach is None else estimate.mean - reach,
        high=None if reach is None else estimate.mean + reach,
    )


def judge_notes(scored: Sequence[Scored]) -> list[str]:
    """Notes on summaries that a judge has left without a rating, and on judges that say nothing."""
    notes = []
    for scorer, _, graded, undecidable, _ in scored:
        for metric in scorer.metrics:
            values = [v for of_task in graded.values() for e in of_task for v in e.values[metric.name]]
            if missing := sum(value is None for value in values):
                notes.append(f"{metric.name}: {missing} of {len(values)} summaries have no readable rating")
        if undecidable:
            notes.append(f"{scorer.metrics[0].name}: {undecidable}")
        if scorer.control_questions() == 0:
            unchecked = "not checked whether the ratings depend on the document (controls=0)"
            notes.append(f"{scorer.metrics[0].name}: {unchecked}")
    return notes
