"""Run folders made of numbers, without a model: what `eval-harness run` would have written."""

import dataclasses
import hashlib

from eval_harness.run.folder import write_run
from eval_harness.types import ItemRecord, ModelIdentity, Score, SuiteResult

METRIC = "acc,none"


def digest(*parts):
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def make_items(task, values, clusters=None, metric=METRIC, prompt="What is {task} {i}?", outputs=None):
    return [
        ItemRecord(
            task=task,
            doc_id=i,
            prompt_hash=digest("prompt", task, i),
            doc_hash=digest("doc", task, i),
            cluster=str(clusters[i]) if clusters else f"{task}:{i}",
            metrics={metric: value},
            outputs=outputs[i] if outputs else [[-1.5, True], [-2.5, False]],
            target="0",
            prompt=prompt.format(task=task, i=i),
            choices=[" yes", " no"],
        )
        for i, value in enumerate(values)
    ]


def score_of(task, values, metric=METRIC):
    flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
    mean = sum(flat) / len(flat) if flat else 0.0
    return Score(task, metric, mean, None, len(values), main=True, normalised=100 * mean, version="1.0")


def make_run(folder, tasks, label="model", clusters=None, metric=METRIC, items=None, **changes):
    """Write a run folder.

    Args:
      folder: where.
      tasks: task -> values of the metric, one per document.
      label: the model's; its weights are a digest of it.
      clusters: labels per document, for every task.
      metric: of all tasks.
      items: records instead of made ones.
      changes: fields of the result to replace.
    """
    result = SuiteResult(
        suite="reasoning",
        preset="made",
        preset_version=1,
        key=digest(label, tasks),
        model=ModelIdentity("hf", label, digest(label), "tokenizer"),
        scores=tuple(score_of(task, values, metric) for task, values in tasks.items()),
        settings={"backend": "hf", "dtype": "float32", "generation": {}, "chat_template": False},
        seeds={"fewshot": 1234},
        versions={"lm_eval": "0.4.13"},
        environment={},
        counts={"failed": 0},
        comparable=True,
    )
    if items is None:
        items = [i for task, v in tasks.items() for i in make_items(task, v, clusters, metric)]
    write_run(folder, dataclasses.replace(result, **changes), items)
    return folder


def values(right, lost=0, gained=0, wrong=0):
    """Baseline's and candidate's right (1) and wrong (0) answers with so many changes."""
    theirs = [1] * (right + lost) + [0] * (gained + wrong)
    ours = [1] * right + [0] * lost + [1] * gained + [0] * wrong
    return ours, theirs
