"""Results of lm-eval 0.4.5 to 0.4.13: documents by their number, metrics with their filter.

In 0.4.5 a sample does not say which filter it is of: the filters follow each other in the order of the task's
definition.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.files.rows import Row
from eval_harness.gate.foreign.lm_eval_files import (
    AGAIN,
    continuations,
    prompt_of,
    read_samples,
    read_table,
    refuse_strangers,
    results_files,
)
from eval_harness.gate.foreign.results import ForeignItem, ForeignRun, as_score, cluster_of, flat, once
from eval_harness.stats.likelihood import gold_scores
from eval_harness.types import Score

NAME = "lm_eval"
_NO_METRICS = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash"),
}


def is_mine(path: Path, head: Any) -> bool:
    """A folder with a results file, at most one folder down, or such a file."""
    if path.is_dir():
        return bool(results_files(path))
    return isinstance(head, dict) and {"results", "configs"} <= set(head)


def read(path: Path, cluster: str | None) -> ForeignRun:
    """Read one evaluation.

    Args:
      path: the folder, or its results file where it holds several evaluations.
      cluster: column of the documents that is equal where they depend on each other; default the prompt.

    Raises:
      UserError: no or several evaluations, a file that is damaged, cut, doubled or of another evaluation.
    """
    files = results_files(path) if path.is_dir() else [path]
    if len(files) > 1:
        raise UserError(
            "several evaluations in one folder",
            got=f"{path}: {', '.join(file.name for file in files[:3])}",
            expected="one",
            remedy="name the results file of the one to compare",
        )
    file, table = files[0], read_table(files[0])
    tasks = {str(task): read_samples(file, str(task), table) for task in table["configs"]}
    if path.is_dir():
        refuse_strangers(file)
    items = [i for task, rows in tasks.items() for i in _items(task, rows, table, cluster, file)]
    scores, notes = _scores(table, items)
    return ForeignRun(
        NAME,
        path,
        _label(table, path),
        items,
        scores,
        asked=_asked(table),
        versions={"lm_eval": str(table["lm_eval_version"])} if "lm_eval_version" in table else {},
        notes=notes,
    )


def _filters(task: str, rows: list[Row], table: dict[str, Any], file: Path) -> list[str]:
    """The filter of every row."""
    if all("filter" in row for row in rows):
        return [str(row["filter"]) for row in rows]
    defined = table["configs"][task].get("filter_list") or [{"name": "none"}]
    names, seen, numbers = [str(entry["name"]) for entry in defined], Counter[Any](), []
    for row in rows:
        numbers.append(seen[row["doc_id"]])
        seen[row["doc_id"]] += 1
    if set(seen.values()) != {len(names)}:
        raise UserError(
            "an item is there twice, or not at all",
            got=f"{task} in {file.parent.name}: documents {min(seen.values())} to {max(seen.values())} times",
            expected=f"once for each of {len(names)} filters",
            remedy=AGAIN,
        )
    return [names[number] for number in numbers]


def _items(
    task: str, rows: list[Row], table: dict[str, Any], cluster: str | None, file: Path
) -> list[ForeignItem]:
    merged: dict[str, tuple[Row, dict[str, Any]]] = {}
    seen: set[Any] = set()
    for row, which in zip(rows, _filters(task, rows, table, file), strict=True):
        name = str(row["doc_id"])
        once(seen, (name, which), file, f"{task} {name}, filter {which}")
        first, metrics = merged.setdefault(name, (row, {}))
        if (first["doc_hash"], first["prompt_hash"]) != (row["doc_hash"], row["prompt_hash"]):
            raise UserError(f"two documents under one number in {file.parent.name}", got=f"{task} {name}")
        names = row.get("metrics") or [key for key in row if key not in _NO_METRICS]
        metrics |= {f"{metric},{which}": _value(row.get(metric)) for metric in names}
    return [_item(task, name, row, metrics, cluster) for name, (row, metrics) in merged.items()]


def _label(table: dict[str, Any], path: Path) -> str:
    """The model's name, of a folder its last part."""
    name = str(table.get("model_name") or table.get("config", {}).get("model_args") or path.name)
    return Path(name).name if name.startswith(("/", ".", "~")) else name


def _value(value: Any) -> Any:
    return [as_score(entry) for entry in value] if isinstance(value, list) else as_score(value)


def _item(task: str, name: str, row: Row, metrics: dict[str, Any], cluster: str | None) -> ForeignItem:
    choices, outputs = continuations(row), [_output(answers) for answers in row["resps"]]
    if choices:
        metrics = metrics | gold_scores(outputs, choices, row.get("target"))
    prompt = prompt_of(row)
    return ForeignItem(
        task,
        name,
        metrics,
        prompt=prompt if isinstance(prompt, str) else json.dumps(prompt),
        prompt_hash=str(row["prompt_hash"]),
        doc_hash=str(row["doc_hash"]),
        target=str(row.get("target")),
        outputs=outputs,
        choices=choices if len(choices) == len(outputs) else [],
        cluster=cluster_of(row["doc"], cluster, f"{task} {name}"),
    )


def _output(answers: Any) -> Any:
    """One answer, or the list of its repeats; [log-probability, is greedy] are written as texts."""
    if not isinstance(answers, list) or len(answers) != 1:
        return answers
    only = answers[0]
    if isinstance(only, list) and len(only) == 2:
        try:
            return [float(only[0]), str(only[1]) == "True"]
        except (TypeError, ValueError):
            return only
    return only


def _scores(table: dict[str, Any], items: list[ForeignItem]) -> tuple[tuple[Score, ...], tuple[str, ...]]:
    """Scores that are means of their items in [0, 1] are main; of an unknown direction there is none."""
    scores, notes = [], []
    for task in table["configs"]:
        of_task = [item for item in items if item.task == task]
        own = {m: float("nan") for m in of_task[0].metrics if m.startswith("gold_")}
        for metric, value in {**table["results"].get(task, {}), **own}.items():
            name, comma, _ = metric.partition(",")
            entries = flat(item.metrics.get(metric) for item in of_task)
            upwards = True if metric in own else _upwards(table, str(task), name)
            if not comma or name.endswith("_stderr") or metric == "alias" or None in entries:
                continue
            mean = sum(entries) / len(entries)
            stated = mean if metric in own else as_score(value)
            if upwards is None or stated is None:
                notes.append(f"{task} {metric}: whether larger is better is not said; left out")
                continue
            is_mean = all(0 <= entry <= 1 for entry in entries) and math.isclose(mean, stated, abs_tol=1e-6)
            scores.append(
                Score(
                    str(task),
                    metric,
                    stated,
                    None,
                    len(of_task),
                    higher_is_better=upwards,
                    main=is_mean and metric not in own,
                    version=_number_text(table.get("versions", {}).get(task, "")),
                    shots=int(table.get("n-shot", {}).get(task) or 0),
                )
            )
    return tuple(scores), tuple(notes)


def _number_text(version: Any) -> str:
    """A task's version: lm-eval writes 1.0 or 1 for the same one."""
    return f"{version:g}" if isinstance(version, int | float) else str(version)


def _upwards(table: dict[str, Any], task: str, metric: str) -> bool | None:
    """Whether a larger value is better, by the results or the task's definition."""
    known = table.get("higher_is_better", {}).get(task, {}).get(metric)
    if known is None:
        entries = table["configs"][task].get("metric_list") or []
        known = next((e.get("higher_is_better") for e in entries if e.get("metric") == metric), None)
    return known if isinstance(known, bool) else None


def _asked(table: dict[str, Any]) -> dict[str, Any]:
    """Settings that shape an answer and stand in no prompt."""
    config = table.get("config") or {}
    asked = {"gen_kwargs": config.get("gen_kwargs")}
    asked |= {
        key: table.get(key) for key in ("chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn")
    }
    for task, definition in table["configs"].items():
        for key in ("generation_kwargs", "repeats", "filter_list", "output_type"):
            asked[f"{key} of {task}"] = definition.get(key)
    return asked
