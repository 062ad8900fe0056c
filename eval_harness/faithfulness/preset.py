"""Presets of the faithfulness suite: how summaries are asked for and scored, as versioned YAML."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from eval_harness.errors import UserError
from eval_harness.faithfulness.registry import ScorerSpec
from eval_harness.models.generation.types import Sampling
from eval_harness.reasoning.preset import PRESET_VERSIONS, check_keys
from eval_harness.run.registry import near

SLOT = "{document}"
_SAMPLING = ("temperatures", "samples", "top_p", "max_new_tokens", "stop")
_KEYS = {"version", "suite", "title", "prompt", "limit", "scorers", *_SAMPLING}
_NEEDED = {"version", "suite", "prompt", "temperatures", "samples", "max_new_tokens", "scorers"}


@dataclass(frozen=True)
class SummaryPreset:
    """`prompt` holds `{document}` once; `limit` documents from the start of the file, None for all."""

    name: str
    version: int
    suite: str
    title: str
    prompt: str
    sampling: Sampling
    scorers: tuple[ScorerSpec, ...]
    limit: int | None = None

    def tasks(self) -> dict[str, float]:
        """Task name -> temperature."""
        return {task_name(t): t for t in self.sampling.temperatures}

    def task_lines(self) -> list[str]:
        """One line per task, for `ls --tasks`."""
        scorers = ", ".join(wanted.name for wanted in self.scorers)
        return [f"{task}  {self.sampling.samples} samples  {scorers}" for task in self.tasks()]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object: part of the run's key."""
        return dataclasses.asdict(self)


def task_name(temperature: float) -> str:
    """All summaries drawn at one temperature are one task."""
    return f"summaries_t{temperature:g}"


def parse(raw: dict[str, Any], name: str) -> SummaryPreset:
    """Turn parsed YAML into a preset; strict about keys. Raises UserError naming preset and key."""
    where = f"preset {name}"
    check_keys(raw, _KEYS, _NEEDED, where)
    version = raw["version"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(f"{where}: version", got=version, expected=PRESET_VERSIONS)
    prompt = raw["prompt"]
    if not isinstance(prompt, str) or prompt.count(SLOT) != 1:
        raise UserError(f"{where}: prompt", got=prompt, expected=f"a text with {SLOT} once")
    scorers = raw["scorers"]
    if not isinstance(scorers, dict) or not scorers:
        raise UserError(f"{where}: scorers", got=scorers, expected="a mapping of scorer names to options")
    for scorer, options in scorers.items():
        if options is not None and not isinstance(options, dict):
            raise UserError(f"{where}: scorer {scorer}", got=options, expected="a mapping of options")
    limit = raw.get("limit")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise UserError(f"{where}: limit", got=limit, expected="null or a positive integer")
    sampling = sampling_from(Sampling(), {key: raw[key] for key in _SAMPLING if key in raw}, where)
    wanted = tuple(ScorerSpec(str(scorer), dict(options or {})) for scorer, options in scorers.items())
    return SummaryPreset(
        name, version, raw["suite"], str(raw.get("title", "")), prompt, sampling, wanted, limit
    )


def sampling_from(start: Sampling, changes: dict[str, Any], where: str) -> Sampling:
    """Change sampling settings. Raises UserError: an unknown name, a value that does not fit."""
    for key, value in changes.items():
        if key not in _SAMPLING:
            raise UserError(f"{where}: sampling", got=key, expected=near(key, list(_SAMPLING)))
        if key in ("temperatures", "stop"):
            entry = str if key == "stop" else int | float
            items = value if isinstance(value, list) else [value]
            if not all(isinstance(item, entry) and not isinstance(item, bool) for item in items):
                raise UserError(f"{where}: {key}", got=value, expected="a list of texts or numbers")
            changes = {**changes, key: tuple(float(i) if key == "temperatures" else i for i in items)}
        elif isinstance(value, bool) or not isinstance(value, int | float if key == "top_p" else int):
            raise UserError(f"{where}: {key}", got=value, expected="a number")
    return dataclasses.replace(start, **changes).checked()


def select(preset: SummaryPreset, tasks: list[str] | None, limit: int | None) -> SummaryPreset:
    """Keep the named temperatures and at most `limit` documents. Raises UserError: an unknown task."""
    if limit is not None and limit < 1:
        raise UserError("--limit", got=limit, expected="a positive integer")
    known = preset.tasks()
    for task in tasks or []:
        if task not in known:
            raise UserError("unknown task", got=task, expected=near(task, list(known)))
    kept = tuple(t for name, t in known.items() if tasks is None or name in tasks)
    sampling = dataclasses.replace(preset.sampling, temperatures=kept)
    smallest = min((n for n in (limit, preset.limit) if n is not None), default=None)
    return dataclasses.replace(preset, sampling=sampling, limit=smallest)
