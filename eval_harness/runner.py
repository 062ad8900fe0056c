"""Model references and suite names in, run folders out."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval_harness.checkpoint import ModelRef
from eval_harness.data import Mapping
from eval_harness.errors import UserError
from eval_harness.output import RESULT, read_result, write_run
from eval_harness.presets import Preset, load_preset, select
from eval_harness.registry import get
from eval_harness.settings import Settings
from eval_harness.types import SuiteResult


@dataclass(frozen=True)
class Request:
    """What the user asked for; `cache` None keeps nothing beyond the run."""

    model: ModelRef | None
    presets: tuple[Preset, ...]
    settings: Settings
    out: Path | None = None
    baseline: ModelRef | None = None
    mapping: Mapping | None = None
    cache: Path | None = None
    punkt_standin: bool = False
    overwrite: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


def default_cache() -> Path:
    """$EVAL_HARNESS_CACHE, else eval_harness under the user's cache folder."""
    if named := os.environ.get("EVAL_HARNESS_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eval_harness"


def parse_suites(text: str, tasks: list[str] | None, limit: int | None) -> tuple[Preset, ...]:
    """`reasoning`, `reasoning:quick`, `reasoning:my.yaml`, several joined by commas.

    Raises:
      UserError: unknown suite, preset or task; a preset of another suite.
    """
    import eval_harness.suites  # noqa: F401 - registers the suites

    presets = []
    for part in text.split(","):
        suite, _, name = part.strip().partition(":")
        get(suite)
        preset = load_preset(name or "leaderboard")
        if preset.suite != suite:
            raise UserError(f"preset {preset.name}", got=f"suite {preset.suite}", expected=f"suite {suite}")
        presets.append(select(preset, tasks, limit))
    return tuple(presets)


@contextmanager
def _workplace(cache: Path | None) -> Iterator[Path]:
    """The cache folder, or a temporary one where nothing is to be kept."""
    if cache is not None:
        yield cache
        return
    folder = Path(tempfile.mkdtemp(prefix="eval-harness-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(request: Request) -> list[SuiteResult]:
    """Check everything for all models and suites, then measure, baseline first; write each result whole.

    Folders: OUT/<suite>-<preset>/ for the candidate, OUT/baseline/<suite>-<preset>/ for the baseline; with a
      single suite the candidate's files lie in OUT itself and the baseline's in OUT/baseline.

    Raises:
      UserError: bad input, before any generation; OUT is not created.
    """
    from eval_harness.suites.reasoning import execute

    out = request.out
    if out is None:
        raise UserError("no output folder", expected="--out DIR")
    with _workplace(request.cache) as work:
        plans = _plans(request, work)
        for folder, plan in plans:
            _check_free(folder, plan.key, request.overwrite)
        results = []
        for folder, plan in plans:
            done = execute(plan)
            if done is None:  # another rank writes
                continue
            write_run(folder, *done)
            shutil.copytree(plan.loaded.folder, folder / "tasks", dirs_exist_ok=True)
            results.append(done[0])
        return results


def _plans(request: Request, work: Path) -> list[tuple[Path, Any]]:
    from eval_harness.suites.reasoning import Job

    plans: list[tuple[Path, Any]] = []
    models = [("baseline", request.baseline)] if request.baseline else []
    for place, ref in [*models, ("", request.model)]:
        for preset in request.presets:
            if ref is None:
                raise UserError("no model", expected="--model DIR or URL")
            prepare: Any = get(preset.suite)
            name = f"{preset.suite}-{preset.name}" if len(request.presets) > 1 else ""
            job = Job(
                preset, ref, request.settings, work, request.cache, request.mapping, request.punkt_standin
            )
            assert request.out is not None  # checked by run
            plans.append((request.out / place / name, prepare(job)))
    return plans


def _check_free(folder: Path, key: str, overwrite: bool) -> None:
    """Raise UserError where the folder holds another run's result."""
    if overwrite or not (folder / RESULT).is_file():
        return
    if read_result(folder).key != key:
        raise UserError(
            "the output folder holds another run",
            got=folder,
            expected="an empty folder or the same run",
            remedy="choose another --out, or pass --overwrite",
        )


def validate(request: Request) -> list[str]:
    """Preflight only: packages, NLTK data and local data; with a model also everything `run` checks.

    Returns:
      One line per suite on what would be run.
    """
    from eval_harness.suites.reasoning import Job, check_environment
    from eval_harness.tasks import check_data

    lines = []
    with _workplace(request.cache) as work:
        for preset in request.presets:
            if request.model is not None:
                plans = _plans(
                    Request(**{**request.__dict__, "presets": (preset,), "out": Path("unused")}), work
                )
                lines += [
                    f"{preset.suite}:{preset.name} ok: {len(p.loaded.tasks)} tasks, {p.requests} requests, "
                    f"model {p.model.weights[:12]}"
                    for _, p in plans
                ]
                continue
            job = Job(
                preset, ModelRef("hf"), request.settings, work, None, request.mapping, request.punkt_standin
            )
            check_environment(job)
            local = check_data(preset, request.mapping, work)
            lines.append(
                f"{preset.suite}:{preset.name} ok: {len(preset.tasks())} tasks, {len(local)} on local data, "
                f"{len(preset.tasks()) - len(local)} on the hub (not checked without a model)"
            )
    return lines
