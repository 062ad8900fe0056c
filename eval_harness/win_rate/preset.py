"""Presets of the win-rate suite: what is asked, how texts are drawn, which template judges."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from eval_harness.errors import UserError
from eval_harness.models.generation import Sampling
from eval_harness.reasoning.preset import PRESET_VERSIONS, check_keys
from eval_harness.run.registry import near

_KEYS = {
    "version",
    "suite",
    "title",
    "task",
    "prompt_keys",
    "format",
    "template",
    "sampling",
    "limit",
    "max_unjudged",
}
_REQUIRED = {"version", "suite", "task", "prompt_keys", "template", "sampling"}


@dataclass(frozen=True)
class WinRatePreset:
    """One prompt set.

    `prompt_keys`: a row's prompt is under the first of these keys that it has. `format` holds `{prompt}` and
    is what the models see; the judge sees the prompt alone. `max_unjudged` is the share of comparisons
    without a judgement above which the verdict is UNDECIDED.
    """

    name: str
    version: int
    suite: str
    title: str
    task: str
    prompt_keys: tuple[str, ...]
    format: str
    template: str
    sampling: Sampling
    limit: int | None
    max_unjudged: float

    def tasks(self) -> dict[str, "WinRatePreset"]:
        """Task names, one per temperature, each with the preset."""
        return {task_name(self.task, t): self for t in self.sampling.temperatures}

    def task_lines(self) -> list[str]:
        """One line per task, for `ls --tasks`."""
        return [
            f"{task}  {1 if temperature == 0 else self.sampling.samples} samples, top_p "
            f"{self.sampling.top_p:g}  limit {self.limit}  judge template {self.template}"
            for task, temperature in zip(self.tasks(), self.sampling.temperatures, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object: part of the run's key."""
        return {**dataclasses.asdict(self), "sampling": self.sampling.to_json()}


def task_name(task: str, temperature: float) -> str:
    """Name of the task that holds the texts of one temperature: `tldr_t0.25`."""
    return f"{task}_t{temperature:g}"


def parse_preset(raw: dict[str, Any], name: str) -> WinRatePreset:
    """Turn parsed YAML into a preset; strict about keys and values. Raises UserError naming both."""
    where = f"preset {name}"
    check_keys(raw, _KEYS, _REQUIRED, where)
    version = raw["version"]
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise UserError(f"{where}: version", got=version, expected=PRESET_VERSIONS)
    keys = raw["prompt_keys"]
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{where}: prompt_keys", got=keys, expected="a list of keys of a row")
    shape = str(raw.get("format", "{prompt}"))
    if shape.count("{prompt}") != 1:
        raise UserError(f"{where}: format", got=shape, expected="a text with {prompt} once")
    share = raw.get("max_unjudged", 0.02)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise UserError(f"{where}: max_unjudged", got=share, expected="a share from 0 to below 1")
    limit = raw.get("limit")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise UserError(f"{where}: limit", got=limit, expected="null or a positive integer")
    return WinRatePreset(
        name,
        version,
        str(raw["suite"]),
        str(raw.get("title", "")),
        str(raw["task"]),
        tuple(keys),
        shape,
        str(raw["template"]),
        read_sampling(raw["sampling"], f"{where}: sampling"),
        limit,
        float(share),
    )


def read_sampling(raw: Any, where: str, base: Sampling | None = None) -> Sampling:
    """Sampling of a mapping of its fields, over another one. Raises UserError for a wrong key or value."""
    known = {field.name: field for field in dataclasses.fields(Sampling)}
    if not isinstance(raw, dict):
        raise UserError(where, got=raw, expected="a mapping of " + ", ".join(known))
    if unknown := sorted(set(map(str, raw)) - set(known)):
        raise UserError(f"{where}: unknown key", got=unknown[0], expected=near(unknown[0], sorted(known)))
    given: dict[str, Any] = dict(raw)
    for key in ("temperatures", "stop"):
        if key in given:
            given[key] = tuple(given[key]) if isinstance(given[key], list) else (given[key],)
    try:
        return dataclasses.replace(base or Sampling(), **given).checked()
    except TypeError as error:
        raise UserError(where, got=raw, expected="numbers, and texts for stop") from error


def select(preset: WinRatePreset, tasks: list[str] | None, limit: int | None) -> WinRatePreset:
    """Keep the named tasks (or the prompt set by its name), and at most `limit` prompts.

    Raises:
      UserError: a name that the preset does not have; a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UserError("--limit", got=limit, expected="a positive integer")
    known = preset.tasks()
    for name in tasks or []:
        if name not in known and name != preset.task:
            raise UserError("unknown task", got=name, expected=near(name, [preset.task, *known]))
    kept = preset.sampling.temperatures
    if tasks is not None and preset.task not in tasks:
        kept = tuple(t for t in kept if task_name(preset.task, t) in tasks)
    cap = min((n for n in (limit, preset.limit) if n is not None), default=None)
    sampling = dataclasses.replace(preset.sampling, temperatures=kept)
    return dataclasses.replace(preset, sampling=sampling, limit=cap)
