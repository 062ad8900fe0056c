"""Model references and suite names in, run folders out."""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.models.reference import ModelRef
from eval_harness.models.settings import Settings
from eval_harness.reasoning.data import DataMapping
from eval_harness.reasoning.preset import read_preset
from eval_harness.run.folder import RESULT, read_result, write_run
from eval_harness.run.job import BASELINE, CANDIDATE, Job, Plan
from eval_harness.run.registry import get
from eval_harness.types import SuiteResult


@dataclass(frozen=True)
class Request:
    """What the user asked for; `cache` None keeps nothing beyond the run.

    `presets` are of the suites' own types; `extra` are options of single suites.
    """

    model: ModelRef | None
    presets: tuple[Any, ...]
    settings: Settings
    out: Path | None = None
    baseline: ModelRef | None = None
    mapping: DataMapping | None = None
    cache: Path | None = None
    punkt_standin: bool = False
    overwrite: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


def default_cache() -> Path:
    """$EVAL_HARNESS_CACHE, else eval_harness under the user's cache folder."""
    if named := os.environ.get("EVAL_HARNESS_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eval_harness"


def parse_suites(text: str, tasks: list[str] | None, limit: int | None) -> tuple[Any, ...]:
    """`reasoning`, `reasoning:quick`, `reasoning:my.yaml`, several joined by commas.

    Raises:
      UserError: unknown suite, preset or task; a preset of another suite.
    """
    presets = []
    for part in text.split(","):
        suite, _, name = part.strip().partition(":")
        preset = load_suite_preset(suite, name)
        presets.append(get(suite).select(preset, tasks, limit))
    return tuple(presets)


def load_suite_preset(suite: str, name: str = "") -> Any:
    """A preset of a suite, its default one without a name. Raises UserError: none, or of another suite."""
    get(suite)
    raw, stem = read_preset(name or get(suite).default)
    if raw.get("suite") != suite:
        raise UserError(f"preset {stem}", got=f"suite {raw.get('suite')}", expected=f"suite {suite}")
    return get(suite).parse(raw, stem)


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
    out = request.out
    if out is None:
        raise UserError("no output folder", expected="--out DIR")
    with _workplace(request.cache) as work:
        plans = _plans(request, work)
        for folder, plan in plans:
            _check_free(folder, plan.key, request.overwrite)
        results = []
        for folder, plan in plans:
            done = plan.execute()
            if done is None:  # another rank writes
                continue
            write_run(folder, *done)
            plan.leave(folder)
            results.append(done[0])
        return results


def _plans(request: Request, work: Path) -> list[tuple[Path, Plan]]:
    plans: list[tuple[Path, Plan]] = []
    models = [(BASELINE, request.baseline)] if request.baseline else []
    for role, ref in [*models, (CANDIDATE, request.model)]:
        for preset in request.presets:
            if ref is None:
                raise UserError("no model", expected="--model DIR or URL")
            name = f"{preset.suite}-{preset.name}" if len(request.presets) > 1 else ""
            assert request.out is not None  # checked by run
            folder = request.out / (BASELINE if role == BASELINE else "") / name
            plans.append((folder, get(preset.suite).prepare(_job(request, preset, ref, role, work))))
    return plans


def _job(request: Request, preset: Any, ref: ModelRef, role: str, work: Path) -> Job:
    return Job(
        preset,
        ref,
        request.settings,
        work,
        request.cache,
        request.mapping,
        request.punkt_standin,
        role,
        request.baseline if role == CANDIDATE else request.model,
        request.extra,
    )


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
    lines = []
    with _workplace(request.cache) as work:
        for preset in request.presets:
            if request.model is None:
                job = _job(request, preset, ModelRef("hf"), CANDIDATE, work)
                lines.append(get(preset.suite).describe(job))
                continue
            one = dataclasses.replace(request, presets=(preset,), out=Path("unused"))
            lines += [plan.line() for _, plan in _plans(one, work)]
    return lines
