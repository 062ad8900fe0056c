"""Presets of the faithfulness suite: how summaries are asked for and scored."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from eval_harness.errors import UserError
from eval_harness.faithfulness.registry import ScorerSpec
from eval_harness.files.configs import Text, check_keys, where_of
from eval_harness.models.generation.types import Sampling
from eval_harness.run.preset import SAMPLING, Limit, Preset, read_sampling, smaller

SLOT = "{document}"
_NEEDED = ("temperatures", "samples", "max_new_tokens")


def _scorers(raw: Any, info: ValidationInfo) -> Any:
    if not isinstance(raw, Mapping) or not raw:
        raise ValueError(raw)
    for scorer, options in raw.items():
        if not isinstance(options, Mapping | None):
            raise UserError(
                f"{where_of(info)}: scorer {scorer}", got=options, expected="a mapping of options"
            )
    return tuple(ScorerSpec(str(scorer), dict(options or {})) for scorer, options in raw.items())


class SummaryPreset(Preset):
    """`prompt` holds `{document}` once; `limit` documents from the start of the file, None for all."""

    prompt: Text = Field(description=f"a text with {SLOT} once")
    sampling: Sampling
    scorers: Annotated[tuple[ScorerSpec, ...], BeforeValidator(_scorers)] = Field(
        description="a mapping of scorer names to options"
    )
    limit: Limit = None

    @field_validator("prompt")
    @classmethod
    def _one_document(cls, prompt: str) -> str:
        if prompt.count(SLOT) != 1:
            raise ValueError(prompt)
        return prompt

    @classmethod
    def parse(cls, raw: object, name: str) -> Self:
        """Build a preset of parsed YAML, in which the sampling settings stand beside the other keys."""
        if not isinstance(raw, Mapping):
            return super().parse(raw, name)
        where = f"preset {name}"
        check_keys(map(str, raw), {*cls.model_fields, *SAMPLING} - {"name", "sampling"}, where)
        if missing := [key for key in _NEEDED if key not in raw]:
            raise UserError(f"{where}: missing key", got=sorted(map(str, raw)), expected=missing[0])
        sampling = read_sampling({key: raw[key] for key in SAMPLING if key in raw}, where)
        rest = {key: value for key, value in raw.items() if key not in SAMPLING}
        return super().parse({**rest, "sampling": as_floats(sampling)}, name)

    def tasks(self) -> dict[str, float]:
        """Task name -> temperature."""
        return {task_name(t): t for t in self.sampling.temperatures}

    def task_lines(self) -> list[str]:
        """One line per task, for `ls --tasks`."""
        scorers = ", ".join(spec.name for spec in self.scorers)
        return [f"{task}  {self.sampling.samples} samples  {scorers}" for task in self.tasks()]

    def selected(self, tasks: list[str] | None, limit: int | None) -> "SummaryPreset":
        """Keep the named temperatures and at most `limit` documents."""
        kept = tuple(t for name, t in self.tasks().items() if tasks is None or name in tasks)
        sampling = dataclasses.replace(self.sampling, temperatures=kept)
        return self.model_copy(update={"sampling": sampling, "limit": smaller(limit, self.limit)})

    def content(self) -> dict[str, Any]:
        """What the run's key depends on, JSON-ready."""
        scorers = [dataclasses.asdict(spec) for spec in self.scorers]
        return {**self.model_dump(), "sampling": dataclasses.asdict(self.sampling), "scorers": scorers}


def as_floats(sampling: Sampling) -> Sampling:
    """The same with temperatures as floats: 0 and 0.0 are one key of the store."""
    return dataclasses.replace(sampling, temperatures=tuple(map(float, sampling.temperatures)))


def task_name(temperature: float) -> str:
    """All summaries drawn at one temperature are one task."""
    return f"summaries_t{temperature:g}"
