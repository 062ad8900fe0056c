"""Results of Inspect's logs: samples by id, epochs as repeats, scorers as metrics."""

import json
import math
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.gate.foreign.inspect_log import read_log
from eval_harness.gate.foreign.results import (
    ForeignItem,
    ForeignRun,
    as_score,
    cluster_of,
    common_metrics,
    flat,
    mean_score,
    metrics_of,
    once,
    sha,
)
from eval_harness.types import Score

NAME = "inspect"
# Source: inspect_ai/scorer/_metric.py, value_to_float.
_WORDS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_MEANS = ("accuracy", "mean")  # Inspect's metrics that are plain means of the scores
_AGAIN = "run the evaluation again, or `inspect eval-retry` it"
Sample = dict[str, Any]


def is_mine(path: Path, head: Any) -> bool:
    """A `.eval` file, or a JSON object of an evaluation."""
    return path.suffix == ".eval" or (isinstance(head, dict) and {"eval", "status"} <= set(head))


def read(path: Path, cluster: str | None) -> ForeignRun:
    """Read one log.

    Args:
      path: the file.
      cluster: key of the samples' metadata that is equal where they depend on each other.

    Raises:
      UserError: an evaluation that failed, was cancelled, is not whole or was graded by the model itself.
    """
    log, samples = read_log(path)
    head = _head(log, path)
    _check_graders(head, path)
    groups: dict[str, dict[int, Sample]] = {}
    seen: set[Any] = set()
    for sample in samples:
        once(seen, (str(sample["id"]), sample["epoch"]), path, f"{sample['id']}, epoch {sample['epoch']}")
        groups.setdefault(str(sample["id"]), {})[int(sample["epoch"])] = sample
    epochs = int((head.get("config") or {}).get("epochs") or 1)
    _check_whole(groups, head, epochs, path)
    task = str(head["task"])
    items = [_item(task, name, epoch, cluster, path) for name, epoch in groups.items()]
    scores = _scores(task, items)
    _check_results(log, scores, epochs, path)
    return ForeignRun(
        NAME,
        path,
        str(head.get("model", path.name)),
        items,
        scores,
        asked=_asked(head, log),
        versions={name: str(version) for name, version in (head.get("packages") or {}).items()},
    )


def _head(log: dict[str, Any], path: Path) -> dict[str, Any]:
    if log.get("status") != "success" or log.get("invalidated"):
        raise UserError(
            "an evaluation that did not succeed",
            got=f"{path.name}: status {log.get('status')}{', invalidated' if log.get('invalidated') else ''}",
            expected="status success",
            remedy=_AGAIN,
        )
    head = log["eval"]
    if not isinstance(head, dict) or "task" not in head:
        raise UserError("no log of Inspect", got=f"{path.name}: no eval.task", expected="an evaluation's log")
    return head


def _check_graders(head: dict[str, Any], path: Path) -> None:
    """Without a named grader Inspect lets the model under test grade itself: two models, two graders."""
    for scorer in head.get("scorers") or []:
        graded = str(scorer.get("name", "")).rpartition("/")[2].startswith("model_graded")
        if (
            graded
            and not (scorer.get("options") or {}).get("model")
            and "grader" not in (head.get("model_roles") or {})
        ):
            raise UserError(
                "the model under test graded itself",
                got=f"{path.name}: scorer {scorer['name']} without a model",
                expected="the same grader for both models",
                remedy="give the scorer model=..., or the evaluation a model role `grader`",
            )


def _check_whole(groups: dict[str, dict[int, Sample]], head: dict[str, Any], epochs: int, path: Path) -> None:
    dataset = head.get("dataset") or {}
    names = [str(name) for name in dataset.get("sample_ids") or []]
    wrong = sorted(set(names) ^ set(groups)) if names else []
    short = [name for name, samples in groups.items() if sorted(samples) != list(range(1, epochs + 1))]
    if wrong or short or not groups:
        raise UserError(
            f"samples are missing in {path.name}, or of another evaluation",
            got=f"{len(groups)} of {len(names) or dataset.get('samples')}, {[*wrong, *short, 'none'][0]}",
            expected=f"every sample {epochs} times",
            remedy=_AGAIN,
        )
    for name, samples in groups.items():
        if failed := next((s for s in samples.values() if s.get("error") or not s.get("scores")), None):
            raise UserError(
                f"a sample without a score in {path.name}",
                got=f"{name}, epoch {failed['epoch']}" + (": an error" if failed.get("error") else ""),
                expected="every sample scored",
                remedy=_AGAIN,
            )


def _item(task: str, name: str, epochs: dict[int, Sample], cluster: str | None, path: Path) -> ForeignItem:
    samples = [epochs[number] for number in sorted(epochs)]
    questions = {_question(sample) for sample in samples}
    if len(questions) > 1:
        raise UserError(f"{path.name}: epochs of {name} ask differently", got=f"{len(questions)} prompts")
    prompt, first = questions.pop(), samples[0]
    return ForeignItem(
        task,
        name,
        _metrics(samples, f"{path.name}, {name}"),
        prompt=_text(first["input"]),
        prompt_hash=sha(prompt),
        doc_hash=sha([_plain(first["input"]), first.get("choices"), first.get("target")]),
        target=_text(first.get("target")),
        outputs=[str((sample.get("output") or {}).get("completion", "")) for sample in samples],
        cluster=cluster_of(first.get("metadata") or {}, cluster, f"the metadata of {name}"),
    )


def _plain(messages: Any) -> Any:
    """Input or messages without their ids, which are drawn anew in every evaluation."""
    if not isinstance(messages, list):
        return messages
    return [[message.get("role"), message.get("content")] for message in messages]


def _question(sample: Sample) -> str:
    """All that stood before the first answer, as it was sent."""
    sent = []
    for message in sample.get("messages") or []:
        if message.get("role") == "assistant" and message.get("source") == "generate":
            break
        sent.append(message)
    return json.dumps([_plain(sample["input"]), _plain(sent)], sort_keys=True)


def _text(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "\n\n".join(f"{message.get('role')}: {message.get('content')}" for message in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _metrics(samples: list[Sample], where: str) -> dict[str, Any]:
    """Every scorer's values over the epochs; what is no number is left out."""
    values: dict[str, list[float | None]] = {}
    for sample in samples:
        for scorer, score in sample["scores"].items():
            value = score["value"]
            parts = (
                {f"{scorer}.{key}": v for key, v in value.items()}
                if isinstance(value, dict)
                else {scorer: value}
            )
            for name, part in parts.items():
                values.setdefault(name, []).append(_number(part))
    metrics: dict[str, Any] = {}
    for name, scores in values.items():
        known = [score for score in scores if score is not None]
        if len(known) == len(samples):
            metrics |= metrics_of(name, known)
        elif known:
            raise UserError(f"{where}: {name}", got=f"{len(known)} of {len(samples)} scores", expected="all")
    return metrics


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return _WORDS[value] if value in _WORDS else _WORDS.get(value.lower())
    return as_score(value)


def _scores(task: str, items: list[ForeignItem]) -> tuple[Score, ...]:
    scores = []
    for metric in common_metrics(items):
        entries = flat(item.metrics[metric] for item in items)
        inside = all(0 <= entry <= 1 for entry in entries)
        scores.append(mean_score(task, metric, items, main=inside and "pass@" not in metric))
    return tuple(scores)


def _check_results(log: dict[str, Any], scores: tuple[Score, ...], epochs: int, path: Path) -> None:
    """The header states means of the scores; where it does, they must be those of the samples."""
    means = {score.metric: score.value for score in scores}
    for stated in ((log.get("results") or {}).get("scores")) or []:
        reducer = stated.get("reducer") or "mean"
        which = (
            "none"
            if epochs == 1
            else f"mean@{epochs}"
            if reducer == "mean"
            else reducer.replace("pass_at_", "pass@")
        )
        ours = means.get(f"{stated.get('name')},{which}")
        for name in _MEANS:
            value = as_score(((stated.get("metrics") or {}).get(name) or {}).get("value"))
            if ours is not None and value is not None and not math.isclose(ours, value, abs_tol=1e-6):
                raise UserError(
                    f"samples and results of {path.name} do not belong together",
                    got=f"{stated['name']}: mean of the samples {ours:.6f}",
                    expected=f"{value:.6f}, as its header says",
                    remedy="copy the file again, or run the evaluation again",
                )


def _asked(head: dict[str, Any], log: dict[str, Any]) -> dict[str, Any]:
    """Settings that shape an answer or its score."""
    plan = log.get("plan") or {}
    return {
        "task version": head.get("task_version"),
        "dataset": (head.get("dataset") or {}).get("name"),
        "solver": [[step.get("solver"), step.get("params")] for step in plan.get("steps") or []],
        "generation": [head.get("model_generate_config") or {}, plan.get("config") or {}],
        "epochs": (head.get("config") or {}).get("epochs"),
        "scorers": [[s.get("name"), s.get("options")] for s in head.get("scorers") or []],
    }
