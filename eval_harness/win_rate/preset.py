"""Presets of the win-rate suite: what is asked, how texts are drawn, which template judges."""

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from eval_harness.errors import UserError
from eval_harness.files.configs import Names, Text, where_of
from eval_harness.models.generation import Sampling
from eval_harness.run.preset import Limit, Preset, read_sampling, smaller

SHARE = "a share from 0 to below 1"


def _sampling(raw: Any, info: ValidationInfo) -> Sampling:
    return raw if isinstance(raw, Sampling) else read_sampling(raw, f"{where_of(info)}: sampling")


class WinRatePreset(Preset):
    """One prompt set.

    `prompt_keys`: a row's prompt is under the first of these keys that it has. `format` holds `{prompt}` and
    is what the models see; the judge sees the prompt alone. `max_unjudged` is the share of comparisons
    without a judgement above which the verdict is UNDECIDED. `max_contradictory` is the share of comparisons
    in which a judge may prefer the same place in both orders; above it these count as without a judgement.
    """

    task: Text
    prompt_keys: Names = Field(min_length=1, description="a list of keys of a row")
    format: Text = Field("{prompt}", description="a text with {prompt} once")
    template: Text
    sampling: Annotated[Sampling, BeforeValidator(_sampling)]
    limit: Limit = None
    max_unjudged: float = Field(0.02, ge=0, lt=1, description=SHARE)
    max_contradictory: float = Field(0.5, ge=0, lt=1, description=SHARE)

    @field_validator("format")
    @classmethod
    def _one_prompt(cls, shape: str) -> str:
        if shape.count("{prompt}") != 1:
            raise ValueError(shape)
        return shape

    def tasks(self) -> dict[str, float]:
        """Task name -> its temperature."""
        return {task_name(self.task, t): t for t in self.sampling.temperatures}

    def task_lines(self) -> list[str]:
        """One line per task, for `ls --tasks`."""
        return [
            f"{task}  {1 if temperature == 0 else self.sampling.samples} samples, top_p "
            f"{self.sampling.top_p:g}  limit {self.limit}  judge template {self.template}"
            for task, temperature in self.tasks().items()
        ]

    def selectable(self) -> Iterable[str]:
        """Tasks, and the prompt set by its name."""
        return [self.task, *self.tasks()]

    def selected(self, tasks: list[str] | None, limit: int | None) -> "WinRatePreset":
        """Keep the named temperatures (or all by the set's name), and at most `limit` prompts."""
        whole = tasks is None or self.task in tasks
        kept = tuple(t for name, t in self.tasks().items() if whole or name in (tasks or ()))
        sampling = dataclasses.replace(self.sampling, temperatures=kept)
        return self.model_copy(update={"sampling": sampling, "limit": smaller(limit, self.limit)})

    def content(self) -> dict[str, Any]:
        """What the run's key depends on, JSON-ready."""
        return {**self.model_dump(), "sampling": dataclasses.asdict(self.sampling)}


def task_name(task: str, temperature: float) -> str:
    """Name of the task that holds the texts of one temperature: `tldr_t0.25`."""
    return f"{task}_t{temperature:g}"


def check_share(share: float) -> None:
    """Raise UserError unless --max-unjudged is a share."""
    if not 0 <= share < 1:
        raise UserError("--max-unjudged", got=share, expected=SHARE)
