"""Presets of the reasoning suite: which lm-eval tasks, with which shots and limits."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from eval_harness.errors import UserError
from eval_harness.files.configs import AsTuple, Config, Names, Text, where_of
from eval_harness.reasoning.normalise import lower_bound
from eval_harness.run.preset import Limit, Preset, smaller


def _with_a_scale(tasks: dict[str, int], info: ValidationInfo) -> dict[str, int]:
    for task, choices in tasks.items():
        try:
            lower_bound(choices)
        except ValueError as error:
            where = f"{where_of(info)}, group {info.data.get('name')}: {task}"
            raise UserError(where, got=choices, expected="0 or at least 2 choices") from error
    return tasks


class TaskGroup(Config):
    """One benchmark: tasks that share metric, shots, limit and columns; explained in leaderboard.yaml."""

    name: Text
    metrics: Names
    shots: int = Field(ge=0, description="an integer of at least 0")
    limit: Limit = None
    normalise: Literal["group", "subtasks"] = "group"
    columns: Names
    cluster: Text
    tasks: Annotated[dict[str, int], AfterValidator(_with_a_scale)] = Field(
        description="task: number of choices, 0 for generated answers"
    )
    needs: Names = ()
    process_docs: str | None = None
    repeats: int = Field(1, ge=1, description="a positive integer")


class ReasoningPreset(Preset):
    """A list of lm-eval tasks in groups; `average`: also the mean of the groups' normalised scores."""

    sources: Names
    average: bool = False
    groups: Annotated[tuple[TaskGroup, ...], AsTuple]

    @model_validator(mode="after")
    def _tasks_once(self) -> "ReasoningPreset":
        names = [task for group in self.groups for task in group.tasks]
        if not names or len(set(names)) != len(names):
            raise UserError(
                f"preset {self.name}: tasks",
                got=f"{len(names)} names, {len(set(names))} distinct",
                expected="at least one task, each named once",
            )
        return self

    def tasks(self) -> dict[str, TaskGroup]:
        """Task name -> its group, in file order."""
        return {task: group for group in self.groups for task in group.tasks}

    def task_lines(self) -> list[str]:
        """One line per task, for `ls --tasks`."""
        return [
            f"{task}  {group.shots} shots  limit {group.limit}  {', '.join(group.metrics)}"
            for task, group in self.tasks().items()
        ]

    def selectable(self) -> Iterable[str]:
        """Tasks and groups."""
        return [*self.tasks(), *(group.name for group in self.groups)]

    def selected(self, tasks: list[str] | None, limit: int | None) -> "ReasoningPreset":
        """Keep only the named tasks or groups, and cap every task at `limit` items."""
        groups = []
        for group in self.groups:
            kept = group.tasks
            if tasks is not None and group.name not in tasks:
                kept = {task: choices for task, choices in kept.items() if task in tasks}
            if kept:
                changes: dict[str, Any] = {"tasks": kept, "limit": smaller(limit, group.limit)}
                groups.append(group.model_copy(update=changes))
        # An average over part of the benchmarks is not the leaderboard's.
        whole = sum(len(group.tasks) for group in groups) == len(self.tasks())
        return self.model_copy(update={"groups": tuple(groups), "average": self.average and whole})
