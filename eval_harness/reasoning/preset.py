"""Presets: which tasks, shots and limits a suite runs, as versioned YAML."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.reasoning.normalise import lower_bound
from eval_harness.run.registry import near

PRESET_VERSIONS = "an integer of at least 1"
_GROUP_KEYS = {
    "name",
    "metrics",
    "shots",
    "limit",
    "normalise",
    "columns",
    "cluster",
    "needs",
    "process_docs",
    "tasks",
}
_PRESET_KEYS = {"version", "suite", "title", "sources", "average", "groups"}


@dataclass(frozen=True)
class Group:
    """One benchmark: tasks that share metric, shots, limit and columns; explained in leaderboard.yaml."""

    name: str
    metrics: tuple[str, ...]
    shots: int
    limit: int | None
    normalise: str
    columns: tuple[str, ...]
    cluster: str
    tasks: dict[str, int]
    needs: tuple[str, ...] = ()
    process_docs: str | None = None


@dataclass(frozen=True)
class Preset:
    """A suite's task list; `version` rises with every change of content."""

    name: str
    version: int
    suite: str
    title: str
    sources: tuple[str, ...]
    average: bool
    groups: tuple[Group, ...]

    def tasks(self) -> dict[str, Group]:
        """Task name -> its group, in file order."""
        return {task: group for group in self.groups for task in group.tasks}

    def task_lines(self) -> list[str]:
        """One line per task, for `ls --tasks`."""
        return [
            f"{task}  {group.shots} shots  limit {group.limit}  {', '.join(group.metrics)}"
            for task, group in self.tasks().items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object: part of the run's key."""
        return dataclasses.asdict(self)


def preset_folder() -> Path:
    """Folder of shipped presets: inside an installed wheel, else configs/eval/suites of the checkout."""
    here = Path(__file__).resolve().parents[1]
    packaged = here / "_configs" / "suites"
    return packaged if packaged.is_dir() else here.parent / "configs" / "eval" / "suites"


def preset_names(suite: str | None = None) -> list[str]:
    """Names of the shipped presets, optionally of one suite."""
    names = sorted(p.stem for p in preset_folder().glob("*.yaml"))
    return [n for n in names if suite is None or read_preset(n)[0].get("suite") == suite]


def read_preset(name: str) -> tuple[dict[str, Any], str]:
    """Keys and name of a preset of any suite: shipped and named, or a path ending in .yaml.

    Raises:
      UserError: no such preset, bad YAML, no mapping.
    """
    import yaml

    path = Path(name) if name.endswith(".yaml") else preset_folder() / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in preset_folder().glob("*.yaml"))
        raise UserError("no such preset", got=name, expected=near(name, known), remedy="eval-harness ls")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError("preset is not valid YAML", got=f"{path}: {error}", expected="YAML") from error
    if not isinstance(raw, dict):
        raise UserError(f"preset {path.stem}", got=type(raw).__name__, expected="a mapping of keys")
    return raw, path.stem


def load_preset(name: str) -> Preset:
    """Load a preset of lm-eval tasks. Raises UserError: as `read_preset` and `parse_preset`."""
    return parse_preset(*read_preset(name))


def parse_preset(raw: object, name: str) -> Preset:
    """Turn parsed YAML into a Preset; strict about keys. Raises UserError naming preset and key."""
    if not isinstance(raw, dict):
        raise UserError(f"preset {name}", got=type(raw).__name__, expected="a mapping of keys")
    check_keys(raw, _PRESET_KEYS, {"version", "suite", "sources", "groups"}, f"preset {name}")
    version = raw["version"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(f"preset {name}: version", got=version, expected=PRESET_VERSIONS)
    groups = tuple(_parse_group(g, name) for g in raw["groups"])
    names = [task for g in groups for task in g.tasks]
    if not names or len(set(names)) != len(names):
        raise UserError(
            f"preset {name}: tasks",
            got=f"{len(names)} names, {len(set(names))} distinct",
            expected="at least one task, each named once",
        )
    return Preset(
        name,
        version,
        str(raw["suite"]),
        str(raw.get("title", "")),
        tuple(raw["sources"]),
        bool(raw.get("average", False)),
        groups,
    )


def _parse_group(raw: dict[str, Any], preset: str) -> Group:
    where = f"preset {preset}, group {raw.get('name')}"
    check_keys(raw, _GROUP_KEYS, {"name", "metrics", "shots", "columns", "cluster", "tasks"}, where)
    limit = raw.get("limit")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise UserError(f"{where}: limit", got=limit, expected="null or a positive integer")
    if not isinstance(raw["shots"], int) or raw["shots"] < 0:
        raise UserError(f"{where}: shots", got=raw["shots"], expected="an integer of at least 0")
    normalise = raw.get("normalise", "group")
    if normalise not in ("group", "subtasks"):
        raise UserError(f"{where}: normalise", got=normalise, expected="group or subtasks")
    for task, choices in raw["tasks"].items():
        try:
            lower_bound(choices)
        except (ValueError, TypeError) as error:
            raise UserError(f"{where}: {task}", got=choices, expected="0 or at least 2 choices") from error
    return Group(
        name=raw["name"],
        metrics=tuple(raw["metrics"]),
        shots=raw["shots"],
        limit=limit,
        normalise=normalise,
        columns=tuple(raw["columns"]),
        cluster=raw["cluster"],
        tasks=dict(raw["tasks"]),
        needs=tuple(raw.get("needs", ())),
        process_docs=raw.get("process_docs"),
    )


def check_keys(raw: dict[str, Any], known: set[str], required: set[str], where: str) -> None:
    """Raise UserError for a key that is not known, with near matches, or one that is missing."""
    if unknown := sorted(set(raw) - known):
        raise UserError(f"{where}: unknown key", got=unknown[0], expected=near(unknown[0], sorted(known)))
    if missing := sorted(required - set(raw)):
        raise UserError(f"{where}: missing key", got=sorted(raw), expected=missing[0])


def select(preset: Preset, tasks: list[str] | None, limit: int | None) -> Preset:
    """Keep only the named tasks or groups, and cap every task at `limit` items.

    Raises:
      UserError: a name that is neither a task nor a group of the preset, with near matches.
    """
    if limit is not None and limit < 1:
        raise UserError("--limit", got=limit, expected="a positive integer")
    known = sorted([*preset.tasks(), *(g.name for g in preset.groups)])
    for name in tasks or []:
        if name not in known:
            raise UserError(
                "unknown task", got=name, expected=near(name, known), remedy="eval-harness ls --tasks"
            )
    groups = []
    for group in preset.groups:
        keep = group.tasks
        if tasks is not None and group.name not in tasks:
            keep = {t: c for t, c in group.tasks.items() if t in tasks}
        cap = min((n for n in (limit, group.limit) if n is not None), default=None)
        if keep:
            groups.append(dataclasses.replace(group, tasks=keep, limit=cap))
    kept = tuple(groups)
    # An average over part of the benchmarks is not the leaderboard's.
    whole = sum(len(g.tasks) for g in kept) == len(preset.tasks())
    return dataclasses.replace(preset, groups=kept, average=preset.average and whole)
