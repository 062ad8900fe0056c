"""lm-eval's shipped task definitions, with only data source, shots and GPQA's choice order replaced."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError, first_line, near, together
from eval_harness.files.writing import write_text
from eval_harness.reasoning.data import DataMapping
from eval_harness.reasoning.prepared import prepare_splits
from eval_harness.reasoning.preset import ReasoningPreset, TaskGroup


@dataclass(frozen=True)
class LoadedTasks:
    """lm-eval Task objects by name, the folder of their definitions, tasks with stand-in few-shot rows."""

    tasks: dict[str, Any]
    folder: Path
    standins: frozenset[str]
    samples: dict[str, Sequence[int]] | None

    def versions(self) -> dict[str, str]:
        """Task name -> version of its shipped definition."""
        return {name: str(task.VERSION) for name, task in self.tasks.items()}

    def documents(self, task: str) -> Sequence[int]:
        """Numbers of the documents that are asked, in order."""
        return (self.samples or {}).get(task) or range(len(self.tasks[task].eval_docs))

    def part(self, chosen: Mapping[str, Sequence[int]]) -> "LoadedTasks":
        """The same tasks with some of their documents, under the prompts of all.

        Prompts are not built anew: the few-shot sampler draws as documents pass.
        """
        tasks = {}
        for name, documents in chosen.items():
            place = {number: where for where, number in enumerate(self.documents(name))}
            # lm-eval counts the documents that it is given from 0.
            kept = {place[number]: new for new, number in enumerate(documents)}
            task = copy.copy(self.tasks[name])
            task._instances = [
                _asked_anew(instance, kept[instance.doc_id])
                for instance in self.tasks[name].instances
                if instance.doc_id in kept
            ]
            tasks[name] = task
        return dataclasses.replace(self, tasks=tasks, samples=dict(chosen))


def _asked_anew(instance: Any, doc_id: int) -> Any:
    return dataclasses.replace(
        instance,
        metadata=(instance.task_name, doc_id, instance.repeats),
        resps=[],
        filtered_resps={},
    )


def shipped_paths(preset: ReasoningPreset) -> dict[str, Path]:
    """Where lm-eval keeps each task of the preset. Raises UserError for an unknown one, with near matches."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    for source in preset.sources:
        if not (root / source).is_dir():
            raise UserError(
                f"preset {preset.name}: sources", got=source, expected="a folder under lm_eval/tasks"
            )
    manager = lm_eval.tasks.TaskManager(
        include_path=[str(root / s) for s in preset.sources], include_defaults=False
    )
    index = manager.task_index
    for task in preset.tasks():
        if task not in index or index[task].yaml_path is None:
            raise UserError(
                "unknown task",
                got=task,
                expected=near(task, manager.all_subtasks),
                remedy="name the folder that defines it under `sources`",
            )
    return {task: Path(index[task].yaml_path) for task in preset.tasks()}


def check_data(
    preset: ReasoningPreset, mapping: DataMapping | None, cache: Path
) -> dict[str, dict[str, Path]]:
    """Check and prepare local data: task -> split -> file; tasks that the mapping lacks stay on the hub."""
    prepared: dict[str, dict[str, Path]] = {}
    mistakes: list[UserError] = []
    for task, group in preset.tasks().items():
        splits = mapping.splits(task) if mapping else None
        if splits is not None:
            try:
                prepared[task] = prepare_splits(splits, group.columns, task, cache / "data")
            except UserError as error:
                mistakes.append(error)
    if mistakes:
        raise together(mistakes)
    return prepared


def definition(task: str, group: TaskGroup, shipped: Path, splits: dict[str, Path] | None) -> str:
    """The YAML that includes a shipped definition and replaces what the preset and the mapping say."""
    lines = [f"include: {json.dumps(str(shipped))}", f"task: {task}", f"num_fewshot: {group.shots}"]
    if splits is not None:
        files = {split: str(path) for split, path in splits.items()}
        kind = "parquet" if any(path.suffix == ".parquet" for path in splits.values()) else "json"
        lines += [
            f"dataset_path: {kind}",
            "dataset_name: null",
            f"dataset_kwargs: {json.dumps({'data_files': files})}",
        ]
    if group.repeats > 1:
        lines.append(f"repeats: {group.repeats}")
    if group.process_docs:
        lines.append(f"process_docs: !function {group.process_docs}")
    return "\n".join(lines) + "\n"


def load_tasks(preset: ReasoningPreset, mapping: DataMapping | None, cache: Path) -> LoadedTasks:
    """Build lm-eval's Task objects.

    Raises:
      UserError: unknown task; data missing, empty, of the wrong columns or not reachable on the hub.
    """
    prepared = check_data(preset, mapping, cache)
    shipped = shipped_paths(preset)
    texts = {t: definition(t, g, shipped[t], prepared.get(t)) for t, g in preset.tasks().items()}
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache / "tasks" / digest
    for task, text in texts.items():
        if not (folder / f"{task}.yaml").is_file():
            write_text(folder / f"{task}.yaml", text)
    tasks = _build(folder, list(texts))
    standins = frozenset(t for t, g in preset.tasks().items() if mapping and _has_standin(mapping, t, g))
    return LoadedTasks(tasks, folder, standins, _samples(preset, tasks))


def _has_standin(mapping: DataMapping, task: str, group: TaskGroup) -> bool:
    # Stand-in rows that no prompt shows (0 shots) change nothing.
    splits = mapping.splits(task) or {}
    return group.shots > 0 and any(source.standin for source in splits.values())


def _build(folder: Path, names: list[str]) -> dict[str, Any]:
    import datasets
    import lm_eval.tasks

    datasets.disable_progress_bars()
    manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    tasks: dict[str, Any] = {}
    for name in names:
        # Whatever goes wrong inside (network, gated set, a split or field the definition names) is about this
        # task's data, and the user needs the task's name with it.
        try:
            tasks.update(manager.load([name])["tasks"])
        except Exception as error:
            raise UserError(
                f"cannot load the data of task {name}",
                got=first_line(error),
                expected="every split it reads",
                remedy="name its files in --data MAPPING.yaml, or run where the hub is reachable",
            ) from error
    return tasks


def _samples(preset: ReasoningPreset, tasks: dict[str, Any]) -> dict[str, Sequence[int]] | None:
    """Per-task item limits in lm-eval's `samples` form: the first n documents."""
    limits = {task: group.limit for task, group in preset.tasks().items() if group.limit is not None}
    sizes = {task: len(tasks[task].eval_docs) for task in limits}
    return {task: range(min(n, sizes[task])) for task, n in limits.items()} or None


def build_requests(loaded: LoadedTasks, settings: Any, template: Any) -> None:
    """Let every task build its prompts as lm-eval's `evaluate` would; they stay on the task objects.

    Args:
      loaded: the tasks.
      settings: seeds, generation overrides, multiturn.
      template: callable(messages, add_generation_prompt) -> prompt, None for plain text.

    Raises:
      UserError: a task's rows do not make prompts (too few few-shot rows, an answer that is no choice, ...).
    """
    for name, task in loaded.tasks.items():
        if settings.generation and task.get_config("output_type") == "generate_until":
            task.set_config(key="generation_kwargs", value=dict(settings.generation), update=True)
        # The few-shot sampler draws as documents pass: same seed, same order, same prompts.
        task.set_fewshot_seed(seed=settings.seeds["fewshot"])
        # Templates and task code run on the user's rows here: whatever they raise is about those rows.
        try:
            task.build_all_requests(
                samples=loaded.samples.get(name) if loaded.samples else None,
                apply_chat_template=template is not None,
                fewshot_as_multiturn=settings.multiturn,
                chat_template=template,
            )
        except Exception as error:
            raise UserError(
                f"cannot build the prompts of task {name}",
                got=first_line(error),
                expected="rows of the task's layout, enough of them for its shots",
            ) from error


@contextmanager
def prebuilt(loaded: LoadedTasks) -> Iterator[None]:
    """While open, lm-eval uses the prompts of `build_requests` instead of building them a second time."""
    for task in loaded.tasks.values():
        task.build_all_requests = lambda **_: None
    try:
        yield
    finally:
        for task in loaded.tasks.values():
            del task.build_all_requests


def requests_digest(loaded: LoadedTasks) -> str:
    """sha256 over all that is asked and scored: task versions, documents, prompts, generation settings."""
    total = hashlib.sha256()
    for name, task in sorted(loaded.tasks.items()):
        total.update(json.dumps([name, str(task.VERSION)]).encode())
        for instance in task.instances:
            entry = [instance.doc_id, instance.request_type, instance.args, instance.doc]
            total.update(json.dumps(entry, sort_keys=True, default=str).encode())
    return total.hexdigest()


def preset_digest(preset: ReasoningPreset) -> str:
    """sha256 of a preset's content."""
    content = preset.model_dump()
    for group in content["groups"]:
        if group["repeats"] == 1:  # as before there were any: finished runs are found again
            del group["repeats"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
