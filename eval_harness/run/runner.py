"""Model references and suite names in, run folders out."""

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.files.places import check_folder, held
from eval_harness.models.engine_options import check_options
from eval_harness.models.reference import ModelRef
from eval_harness.models.settings import Settings, environment, versions
from eval_harness.run.folder import is_finished, read_items, read_result, write_run
from eval_harness.run.job import BASELINE, CANDIDATE, Job, Measured, Plan, Role
from eval_harness.run.preset import Preset, read_preset
from eval_harness.run.registry import get
from eval_harness.types import ItemRecord, SuiteResult


@dataclass(frozen=True)
class Request:
    """What the user asked for; `cache` None keeps nothing beyond the run.

    `presets` are of the suites' own types; `options` maps a suite to its own.
    """

    model: ModelRef | None
    presets: tuple[Preset, ...]
    settings: Settings
    options: Mapping[str, object] = field(default_factory=dict)
    out: Path | None = None
    baseline: ModelRef | None = None
    cache: Path | None = None
    overwrite: bool = False


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
    parts = [part.strip().partition(":") for part in text.split(",")]
    return tuple(load_suite_preset(suite, name).select(tasks, limit) for suite, _, name in parts)


def load_suite_preset(suite: str, name: str = "") -> Preset:
    """A preset of a suite, its default one without a name. Raises UserError: none, or of another suite."""
    raw, stem = read_preset(name or get(suite).default_preset)
    if raw.get("suite") != suite:
        raise UserError(f"preset {stem}", got=f"suite {raw.get('suite')}", expected=f"suite {suite}")
    preset: Preset = get(suite).preset_type.parse(raw, stem)
    return preset


@contextmanager
def workplace(cache: Path | None) -> Iterator[Path]:
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
    out = request.out
    if out is None:
        raise UserError("no output folder", expected="--out DIR")
    check_folder(out, "--out")
    if request.cache is not None:
        check_folder(request.cache, "--cache")
    with workplace(request.cache) as work:
        plans = plans_of(request, out, work)
        for folder, plan in plans:
            check_free(folder, plan.key, request.overwrite)
        with held(out):
            return _measure(plans, request.overwrite)


def _measure(plans: list[tuple[Path, Plan]], overwrite: bool) -> list[SuiteResult]:
    """Measure every plan and write it into its folder, which no other run writes to."""
    results = []
    for folder, plan in plans:
        check_free(folder, plan.key, overwrite)  # a run that held the folder may have finished
        done = execute(plan)
        if done is None:  # another rank writes
            continue
        write_run(folder, *done)
        plan.leave(folder)
        results.append(done[0])
    return results


def execute(plan: Plan) -> tuple[SuiteResult, list[ItemRecord]] | None:
    """Measure. A run with the same key that was finished before is read back; None on ranks other than 0."""
    kept = plan.job.cache / "runs" / plan.key if plan.job.cache else None
    if kept is not None and is_finished(kept):
        return read_result(kept), read_items(kept)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    with plan.job.store() as store:
        measured = plan.measure(store)
    if measured is None:
        return None
    result = result_of(plan, measured, started, time.monotonic() - clock)
    if kept is not None and measured.complete:
        write_run(kept, result, measured.items)
    return result, measured.items


def result_of(plan: Plan, measured: Measured, started: str, seconds: float) -> SuiteResult:
    """A suite's findings with what all runs have in common."""
    preset, settings = plan.job.preset, plan.job.settings
    return SuiteResult(
        suite=preset.suite,
        preset=preset.name,
        preset_version=preset.version,
        key=plan.key,
        model=plan.model,
        scores=measured.scores,
        settings={**dataclasses.asdict(settings), **measured.settings},
        seeds={**settings.seeds, **measured.seeds},
        versions=versions(),
        environment=environment(settings),
        counts=measured.counts,
        comparable=measured.comparable,
        notes=measured.notes,
        facts=measured.facts,
        asked=measured.asked,
        max_unjudged=measured.max_unjudged,
        undecidable=measured.undecidable,
        started=started,
        seconds=round(seconds, 3),
    )


def plans_of(request: Request, out: Path, work: Path) -> list[tuple[Path, Plan]]:
    """Folder and plan of each model and suite, baseline first. Raises UserError: see `run`."""
    plans: list[tuple[Path, Plan]] = []
    check_options(request.settings, [ref for ref in (request.baseline, request.model) if ref])
    models: list[tuple[Role, ModelRef | None]] = [(BASELINE, request.baseline)] if request.baseline else []
    for role, ref in [*models, (CANDIDATE, request.model)]:
        for preset in request.presets:
            if ref is None:
                raise UserError("no model", expected="--model DIR or URL")
            name = f"{preset.suite}-{preset.name}" if len(request.presets) > 1 else ""
            folder = out / (BASELINE if role == BASELINE else "") / name
            plans.append((folder, get(preset.suite).prepare(_job(request, preset, ref, role, work))))
    return plans


def _job(request: Request, preset: Preset, ref: ModelRef, role: Role, work: Path) -> Job[Any, Any]:
    opponent = request.baseline if role == CANDIDATE else request.model
    options = request.options[preset.suite]
    return Job(preset, options, ref, request.settings, work, request.cache, role, opponent)


def check_free(folder: Path, key: str, overwrite: bool) -> None:
    """Raise UserError where the folder holds another run's result."""
    if not overwrite and is_finished(folder) and read_result(folder).key != key:
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
    lines = []
    for place, option in ((request.out, "--out"), (request.cache, "--cache")):
        if place is not None:
            check_folder(place, option)
    with workplace(request.cache) as work:
        for preset in request.presets:
            if request.model is None:
                job = _job(request, preset, ModelRef("hf"), CANDIDATE, work)
                lines.append(get(preset.suite).describe(job))
                continue
            one = dataclasses.replace(request, presets=(preset,))
            lines += [plan.line() for _, plan in plans_of(one, Path("unused"), work)]
    return lines
