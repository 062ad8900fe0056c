"""The reasoning suite: lm-eval 0.4.13 on its shipped task definitions."""

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError, first_line
from eval_harness.models import checks as model_checks
from eval_harness.models import engines
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.fit import check_weights_fit
from eval_harness.models.identity import identity, sha
from eval_harness.models.settings import environment, namespace, versions
from eval_harness.reasoning import preflight
from eval_harness.reasoning.answer_cache import AnswerCache
from eval_harness.reasoning.lm_eval_results import group_scores, item_records, task_scores
from eval_harness.reasoning.preset import parse_preset, select
from eval_harness.reasoning.punkt import NOTE as PUNKT_NOTE
from eval_harness.reasoning.tasks import (
    LoadedTasks,
    build_requests,
    check_data,
    load_tasks,
    prebuilt,
    preset_digest,
    requests_digest,
)
from eval_harness.run.folder import check_space, read_items, read_result, write_run
from eval_harness.run.job import Job
from eval_harness.run.registry import register_suite
from eval_harness.types import ItemRecord, ModelIdentity, SuiteResult

_BYTES_PER_REQUEST = 8192  # prompt, answer and record of one request, generously
_FREE_AT_LEAST = 64 << 20


@dataclass(frozen=True)
class ReasoningPlan:
    """A job that passed preflight: prompts built, no model loaded, nothing generated."""

    job: Job
    model: ModelIdentity
    loaded: LoadedTasks
    template: Any
    notes: dict[str, list[str]]
    key: str
    space: str
    requests: int

    def line(self) -> str:
        """What would be run."""
        preset = self.job.preset
        return (
            f"{preset.suite}:{preset.name} ok: {len(self.loaded.tasks)} tasks, {self.requests} requests, "
            f"model {self.model.weights[:12]}"
        )

    def execute(self) -> tuple[SuiteResult, list[ItemRecord]] | None:
        """Measure. A run with the same key that was finished before is read back; None on other ranks."""
        return execute(self)

    def leave(self, folder: Path) -> None:
        """Copy the task definitions."""
        shutil.copytree(self.loaded.folder, folder / "tasks", dirs_exist_ok=True)


def describe(job: Job) -> str:
    """Check packages, NLTK data and local data, without a model."""
    check_environment(job)
    preset, local = job.preset, check_data(job.preset, job.mapping, job.work)
    tasks = len(preset.tasks())
    return (
        f"{preset.suite}:{preset.name} ok: {tasks} tasks, {len(local)} on local data, "
        f"{tasks - len(local)} on the hub (not checked without a model)"
    )


@register_suite("reasoning", parse=parse_preset, select=select, describe=describe, default="leaderboard")
def prepare(job: Job) -> ReasoningPlan:
    """Preflight: check everything, build all prompts, load no model.

    Raises:
      UserError: the first thing that would fail later, with its remedy.
    """
    settings = dataclasses.replace(job.settings, device=engines.resolve_device(job.settings.device)).checked()
    job = dataclasses.replace(job, settings=settings)
    model = check_model(job)
    standin = check_environment(job)
    rows = check_weights_fit(job.ref)
    tokenizer = model_checks.load_tokenizer(job.ref, settings)
    loaded = load_tasks(job.preset, job.mapping, job.work)
    model_checks.check_answerable(job.ref, settings, loaded.tasks)
    template = engines.template_function(settings, tokenizer)
    build_requests(loaded, settings, template)
    model_checks.check_vocabulary(rows, tokenizer, _texts(loaded))
    cut = model_checks.check_context(loaded.tasks, job.ref, settings, tokenizer)
    count = sum(len(t.instances) for t in loaded.tasks.values())
    check_space(job.work, _FREE_AT_LEAST + count * _BYTES_PER_REQUEST)
    space = namespace(model, settings, versions())
    parts = [space, preset_digest(job.preset), requests_digest(loaded), settings.generation, standin]
    notes = _notes(job, loaded, cut, standin)
    return ReasoningPlan(
        job, model, loaded, template, notes, sha(json.dumps(parts, sort_keys=True)), space, count
    )


def _texts(loaded: LoadedTasks) -> Iterator[str]:
    """Prompts and continuations of all requests."""
    for task in loaded.tasks.values():
        for request in task.instances:
            yield from (part for part in request.args[:2] if isinstance(part, str))


def check_model(job: Job) -> ModelIdentity:
    """Check that the model is whole (or answers) and hash it."""
    if job.ref.kind == "outputs":
        raise UserError("a file of texts is no model", got=job.ref.path, expected="a folder or an address")
    preflight.check_backend(job.settings)
    if job.ref.kind == "endpoint":
        model_checks.check_endpoint(job.ref, job.settings, cached=job.cache is not None)
    return identity(job.ref)


def check_environment(job: Job) -> bool:
    """Check packages and NLTK data; true when the punkt stand-in is in use."""
    preflight.check_packages(job.preset)
    return preflight.check_punkt(job.preset, job.work / "nltk_standin" if job.punkt_standin else None)


def _notes(job: Job, loaded: LoadedTasks, cut: dict[str, int], standin: bool) -> dict[str, list[str]]:
    notes: dict[str, list[str]] = {}
    for task, group in job.preset.tasks().items():
        found = []
        if standin and "punkt" in group.needs:
            found.append(PUNKT_NOTE)
        if task in loaded.standins:
            found.append("few-shot rows are stand-ins: not comparable with published scores")
        if job.settings.generation and loaded.tasks[task].get_config("output_type") == "generate_until":
            found.append(
                f"generation settings changed: {json.dumps(job.settings.generation, sort_keys=True)}"
            )
        if cut.get(task):
            found.append(f"{cut[task]} requests cut from the left to fit the context")
        notes[task] = found
    return notes


def execute(plan: ReasoningPlan) -> tuple[SuiteResult, list[ItemRecord]] | None:
    """Measure. A run with the same key that was finished before is read back; None on ranks other than 0."""
    kept = plan.job.cache / "runs" / plan.key if plan.job.cache else None
    if kept is not None and (kept / "result.json").is_file():
        return read_result(kept), read_items(kept)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    store = AnswerStore(
        plan.job.cache / "answers.sqlite" if plan.job.cache else plan.job.work / "answers.sqlite"
    )
    journal = AnswerCache(store, plan.space, plan.loaded.versions(), each=plan.job.ref.kind == "endpoint")
    try:
        raw = _evaluate(plan, journal)
    except Exception as error:
        if plan.job.ref.kind != "endpoint" or isinstance(error, UserError):
            raise
        # Whatever client library gave up (aiohttp, requests, tenacity): the endpoint failed, our state is
        # whole.
        raise UserError(
            "the endpoint failed during the run",
            got=first_line(error),
            expected="answers",
            remedy="run the same command again: finished answers are kept",
        ) from error
    finally:
        store.close()
    if raw is None:
        return None
    result = _result(plan, raw, journal, started, time.monotonic() - clock)
    items = item_records(raw["samples"], plan.job.preset)
    if kept is not None and not journal.counts["failed"]:
        write_run(kept, result, items)
    return result, items


def _evaluate(plan: ReasoningPlan, journal: AnswerCache) -> dict[str, Any] | None:
    import contextlib

    import lm_eval

    settings = plan.job.settings
    engine = engines.load_engine(plan.job.ref, settings)
    engine.attach(journal, engines.piece_size(plan.job.ref, settings))
    manager = lm_eval.tasks.TaskManager(include_path=str(plan.loaded.folder), include_defaults=False)
    # Under `accelerate launch` lm-eval deals the documents out to the ranks while it builds the prompts.
    alone = engines.world_size() == 1
    with prebuilt(plan.loaded) if alone else contextlib.nullcontext():
        raw: dict[str, Any] | None = lm_eval.simple_evaluate(
            model=engine,
            tasks=list(plan.loaded.tasks.values()),
            samples=plan.loaded.samples,
            task_manager=manager,
            apply_chat_template=plan.template is not None,
            fewshot_as_multiturn=settings.multiturn,
            gen_kwargs=dict(settings.generation) or None,
            bootstrap_iters=1000,
            log_samples=True,
            random_seed=settings.seeds["random"],
            numpy_random_seed=settings.seeds["numpy"],
            torch_random_seed=settings.seeds["torch"],
            fewshot_random_seed=settings.seeds["fewshot"],
        )
    return raw


def _result(
    plan: ReasoningPlan, raw: dict[str, Any], journal: AnswerCache, started: str, seconds: float
) -> SuiteResult:
    preset, counts = plan.job.preset, journal.counts
    sizes = {task: raw["n-samples"][task]["effective"] for task in preset.tasks()}
    if plan.loaded.samples:
        sizes |= {task: len(kept) for task, kept in plan.loaded.samples.items()}
    scores = task_scores(raw["results"], preset, sizes, plan.loaded.versions(), plan.notes)
    scores += group_scores(scores, preset)
    notes = list(dict.fromkeys(note for found in plan.notes.values() for note in found))
    if counts["failed"]:
        notes.append(
            f"{counts['failed']} requests got no content from the endpoint; run again to ask them again"
        )
    return SuiteResult(
        suite=preset.suite,
        preset=preset.name,
        preset_version=preset.version,
        key=plan.key,
        model=plan.model,
        scores=tuple(scores),
        settings=plan.job.settings.to_json(),
        seeds=dict(plan.job.settings.seeds),
        versions=versions(),
        environment=environment(plan.job.settings),
        comparable=not notes,
        notes=tuple(notes),
        counts={
            "items": sum(sizes.values()),
            "requests": plan.requests,
            "reused": counts["reused"],
            "computed": counts["computed"],
            "failed": counts["failed"],
        },
        started=started,
        seconds=round(seconds, 3),
    )
