"""Several sampled answers to every document, each graded by itself: lm-eval grades the first alone."""

import copy
import dataclasses
from typing import Any

from eval_harness.errors import UserError
from eval_harness.models.settings import Settings
from eval_harness.reasoning.normalise import normalise
from eval_harness.reasoning.preset import ReasoningPreset
from eval_harness.types import ItemRecord, Score


def check_repeats(preset: ReasoningPreset, tasks: dict[str, Any], settings: Settings) -> None:
    """Raise UserError where repeats would all be the same answer, or are no answers at all."""
    for name, group in preset.tasks().items():
        if group.repeats == 1:
            continue
        kind = tasks[name].get_config("output_type")
        if kind != "generate_until":
            raise UserError(f"repeats of {name}", got=kind, expected="a task of generated answers")
        if not {**tasks[name].get_config("generation_kwargs"), **settings.generation}.get("do_sample"):
            raise UserError(
                f"repeats of {name}",
                got="greedy answers, which are all the same",
                expected="sampled ones",
                remedy="--generation do_sample=true --generation temperature=0.7",
            )


def graded(task: Any, samples: list[dict[str, Any]]) -> dict[int, dict[str, list[float]]]:
    """Every metric of every repeat: document -> `metric,filter` -> values in the order of the answers."""
    scores: dict[int, dict[str, list[float]]] = {}
    first = {int(sample["doc_id"]): sample for sample in samples}
    for number, sample in first.items():
        for answer in sample["resps"][0]:
            instance = copy.copy(task.instances[0])
            instance.doc, instance.resps, instance.filtered_resps = sample["doc"], [answer], {}
            for ensemble in task._filters:
                ensemble.apply([instance])
                values = task.process_results(sample["doc"], [instance.filtered_resps[ensemble.name]])
                for metric, value in values.items():
                    kept = scores.setdefault(number, {}).setdefault(f"{metric},{ensemble.name}", [])
                    kept.append(float(value))
    return scores


def with_repeats(
    items: list[ItemRecord],
    scores: list[Score],
    preset: ReasoningPreset,
    tasks: dict[str, Any],
    samples: dict[str, list[dict[str, Any]]],
) -> tuple[list[ItemRecord], list[Score]]:
    """Items and scores of tasks with repeats: all repeats under the metric's own name, and pass@k.

    A metric of repeats is a list, clustered by its document; its score is the mean over all of them.
    `NAME,FILTER.pass@j` is the unbiased estimate that one of j answers is right.
    """
    several = {name: group for name, group in preset.tasks().items() if group.repeats > 1}
    values = {name: graded(tasks[name], samples[name]) for name in several}
    items = [
        dataclasses.replace(item, metrics=item.metrics | _metrics(values[item.task][item.doc_id]))
        if item.task in values
        else item
        for item in items
    ]
    kept = [score for score in scores if score.task not in several]
    for score in (score for score in scores if score.task in several):
        of_task = [item for item in items if item.task == score.task]
        names = [name for name in of_task[0].metrics if name.partition(".pass@")[0] == score.metric]
        kept += [_mean(score, name, of_task, several[score.task].tasks[score.task]) for name in names]
    return items, kept


def _metrics(values: dict[str, list[float]]) -> dict[str, Any]:
    from eval_harness.stats.repeats import pass_metrics  # numpy, which lists do without

    return values | {
        f"{name}.pass@{k}": share for name, row in values.items() for k, share in pass_metrics(row).items()
    }


def _mean(like: Score, metric: str, items: list[ItemRecord], choices: int) -> Score:
    raw = [item.metrics[metric] for item in items]
    entries = [entry for value in raw for entry in (value if isinstance(value, list) else [value])]
    value, main = sum(entries) / len(entries), like.main and metric == like.metric
    scaled = normalise(value, choices) if main and like.normalised is not None else None
    return dataclasses.replace(like, metric=metric, value=value, stderr=None, main=main, normalised=scaled)
