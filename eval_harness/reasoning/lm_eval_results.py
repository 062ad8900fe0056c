"""lm-eval's result tables and sample logs into Scores and ItemRecords; pure."""

import hashlib
import json
import math
from typing import Any

from eval_harness.reasoning.normalise import mean, normalise, weighted_mean
from eval_harness.reasoning.preset import ReasoningPreset, TaskGroup
from eval_harness.types import ItemRecord, Score


def task_scores(
    results: dict[str, Any],
    preset: ReasoningPreset,
    sizes: dict[str, int],
    versions: dict[str, str],
    notes: dict[str, list[str]],
    directions: dict[str, dict[str, bool]],
) -> list[Score]:
    """One Score per task and metric, in preset order.

    Args:
      results: lm-eval's `results` table.
      preset: what was run.
      sizes: documents per task.
      versions: task -> definition version.
      notes: task -> why its scores are not comparable with published ones (empty: they are).
      directions: task -> metric without filter -> whether larger is better (lm-eval's `higher_is_better`).
    """
    scores = []
    for task, group in preset.tasks().items():
        table = results[task]
        for metric in (m for m in table if "," in m and "_stderr" not in m):
            name, _, which = metric.partition(",")
            stderr = table.get(f"{name}_stderr,{which}")
            main, upwards = metric in group.metrics, directions.get(task, {}).get(name, True)
            scaled = main and upwards  # the leaderboard's scale is one of accuracies
            scores.append(
                Score(
                    task=task,
                    metric=metric,
                    value=float(table[metric]),
                    n=sizes[task],
                    version=versions[task],
                    stderr=_number(stderr),
                    shots=group.shots,
                    higher_is_better=upwards,
                    main=main,
                    normalised=normalise(float(table[metric]), group.tasks[task]) if scaled else None,
                    comparable=not notes.get(task),
                    notes=tuple(notes.get(task, ())),
                )
            )
    return scores


def gold_score_rows(items: list[ItemRecord], scores: list[Score]) -> list[Score]:
    """Means of the gold answer's probability, for tasks of which every document has one."""
    from eval_harness.stats.likelihood import GOLD  # numpy, which lists do without

    rows = []
    for like in {score.task: score for score in reversed(scores)}.values():
        of_task = [item for item in items if item.task == like.task]
        for metric in GOLD:
            values = [item.metrics[metric] for item in of_task if metric in item.metrics]
            if values and len(values) == len(of_task):
                value = sum(values) / len(values)
                rows.append(
                    Score(
                        like.task, metric, value, None, like.n,
                        version=like.version, shots=like.shots, comparable=like.comparable, notes=like.notes,
                    )
                )  # fmt: skip
    return rows


def _number(value: object) -> float | None:
    """A standard error; lm-eval gives a text or NaN where there is none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def group_scores(scores: list[Score], preset: ReasoningPreset) -> list[Score]:
    """Group and average scores by the leaderboard's rules, the average under the name `average`."""
    by_key = {(s.task, s.metric): s for s in scores}
    groups: list[Score] = []
    means: list[float] = []
    for group in preset.groups:
        per_metric = [_group_score(group, m, [by_key[t, m] for t in group.tasks]) for m in group.metrics]
        groups += per_metric
        if known := [s.normalised for s in per_metric if s.normalised is not None]:
            means.append(mean(known))
    if preset.average and means:
        total = sum(s.n for s in {g.task: g for g in groups}.values())
        groups.append(
            Score(
                "average",
                "normalised",
                mean(means) / 100.0,
                None,
                total,
                main=True,
                is_group=True,
                normalised=mean(means),
                comparable=all(g.comparable for g in groups),
            )
        )
    return groups


def _group_score(group: TaskGroup, metric: str, parts: list[Score]) -> Score:
    value = weighted_mean([s.value for s in parts], [s.n for s in parts])
    scaled: float | None = None
    if any(s.normalised is None for s in parts):
        pass  # of a metric that is better when smaller there is no such scale
    elif group.normalise == "subtasks":
        scaled = mean([normalise(s.value, group.tasks[s.task]) for s in parts])
    else:
        scaled = normalise(value, next(iter(group.tasks.values())))
    notes = tuple(dict.fromkeys(note for s in parts for note in s.notes))
    return Score(
        group.name,
        metric,
        value,
        None,
        sum(s.n for s in parts),
        higher_is_better=parts[0].higher_is_better,
        main=True,
        is_group=True,
        normalised=scaled,
        shots=group.shots,
        comparable=not notes,
        notes=notes,
    )


def item_records(samples: dict[str, list[dict[str, Any]]], preset: ReasoningPreset) -> list[ItemRecord]:
    """One record per task and document; lm-eval's one sample per filter is merged."""
    records = []
    for task, group in preset.tasks().items():
        merged: dict[int, dict[str, Any]] = {}
        for sample in samples[task]:
            entry = merged.setdefault(int(sample["doc_id"]), {"sample": sample, "metrics": {}})
            which = sample["filter"]
            entry["metrics"].update({f"{m},{which}": _json_value(sample[m]) for m in sample["metrics"]})
        records += [_record(task, group, e["sample"], e["metrics"]) for _, e in sorted(merged.items())]
    return records


def _record(task: str, group: TaskGroup, sample: dict[str, Any], metrics: dict[str, Any]) -> ItemRecord:
    from eval_harness.stats.likelihood import gold_scores  # numpy, which lists do without

    # One answer per request; repeats of a sampled generation stay a list.
    outputs = _json_value([r[0] if len(r) == 1 else list(r) for r in sample["resps"]])
    # Of a generated answer the second argument is its settings.
    choices = [a[1] for a in sample["arguments"] if len(a) > 1 and isinstance(a[1], str)]
    if choices:
        metrics = metrics | gold_scores(outputs, choices, _json_value(sample["target"]))
    return ItemRecord(
        task=task,
        doc_id=int(sample["doc_id"]),
        prompt_hash=sample["prompt_hash"],
        doc_hash=sample["doc_hash"],
        cluster=cluster_key(group.cluster, sample["doc"]),
        metrics=metrics,
        outputs=outputs,
        target=str(sample["target"]),
        prompt=str(sample["arguments"][0][0]),
        choices=choices,
    )


def cluster_key(column: str, doc: dict[str, Any]) -> str:
    """Key equal for documents with the same value in `column`, whatever the task: `column:sha256[:16]`."""
    text = json.dumps(_json_value(doc[column]), sort_keys=True, ensure_ascii=False)
    return f"{column}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _json_value(value: Any) -> Any:
    """Reduce numpy scalars, tuples and other values to JSON's own types."""
    if isinstance(value, dict):
        return {str(key): _json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(entry) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return _json_value(value.item()) if hasattr(value, "item") else str(value)
