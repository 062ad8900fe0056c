"""The reasoning suite: lm-eval 0.4.13 on its shipped task definitions."""

import argparse
import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError, first_line
from eval_harness.files.writing import check_space
from eval_harness.models import checks as model_checks
from eval_harness.models import engines
from eval_harness.models.answer_cache import AnswerCache
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.engine_options import narrowed, recorded
from eval_harness.models.fit import check_weights_fit
from eval_harness.models.identity import identity, sha
from eval_harness.models.settings import namespace, versions
from eval_harness.models.thinking import Thinking, keyed, thinking_of
from eval_harness.reasoning import preflight
from eval_harness.reasoning.lm_eval_results import (
    cluster_key,
    gold_score_rows,
    group_scores,
    item_records,
    task_scores,
)
from eval_harness.reasoning.notes import no_answer, notes_of
from eval_harness.reasoning.options import ReasoningJob, ReasoningOptions, add_flags, options_from
from eval_harness.reasoning.preset import ReasoningPreset
from eval_harness.reasoning.repeats import check_repeats, with_repeats
from eval_harness.reasoning.tasks import (
    LoadedTasks,
    build_requests,
    check_data,
    load_tasks,
    prebuilt,
    preset_digest,
    requests_digest,
)
from eval_harness.run.job import Measured
from eval_harness.run.registry import Suite, register_suite
from eval_harness.types import ModelIdentity

_BYTES_PER_REQUEST = 8192  # prompt, answer and record of one request, generously
_FREE_AT_LEAST = 64 << 20


@register_suite("reasoning")
class Reasoning(Suite[ReasoningPreset, ReasoningOptions]):
    """lm-eval's tasks on a checkpoint."""

    default_preset = "leaderboard"
    preset_type = ReasoningPreset

    def add_flags(self, group: "argparse._ArgumentGroup") -> None:
        """Where data come from."""
        add_flags(group)

    def options(self, args: argparse.Namespace) -> ReasoningOptions:
        """Read the mapping."""
        return options_from(args)

    def is_local(self, preset: ReasoningPreset, options: ReasoningOptions) -> bool:
        """Whether the mapping names every task."""
        return options.mapping is not None and all(map(options.mapping.splits, preset.tasks()))

    def describe(self, job: ReasoningJob) -> str:
        """Check packages, NLTK data and local data, without a model."""
        _check_environment(job)
        preset, local = job.preset, check_data(job.preset, job.options.mapping, job.work)
        tasks = len(preset.tasks())
        return (
            f"{preset.suite}:{preset.name} ok: {tasks} tasks, {len(local)} on local data, "
            f"{tasks - len(local)} on the hub (not checked without a model)"
        )

    def prepare(self, job: ReasoningJob) -> "ReasoningPlan":
        """Preflight: check everything, build all prompts, load no model."""
        device = engines.resolve_device(job.settings.device)
        settings = narrowed(dataclasses.replace(job.settings, device=device).checked(), job.ref)
        job = dataclasses.replace(job, settings=settings)
        model = _check_model(job)
        standin = _check_environment(job)
        rows = check_weights_fit(job.ref)
        tokenizer = model_checks.load_tokenizer(job.ref, settings)
        loaded = load_tasks(job.preset, job.options.mapping, job.work)
        model_checks.check_answerable(job.ref, settings, loaded.tasks)
        check_repeats(job.preset, loaded.tasks, settings)
        template = engines.template_function(job.ref, settings, tokenizer)
        build_requests(loaded, settings, template)
        model_checks.check_vocabulary(rows, tokenizer, _texts(loaded))
        thinking = thinking_of(job.ref, settings, _texts(loaded))
        cut = model_checks.check_context(loaded.tasks, job.ref, settings, tokenizer)
        count = sum(len(t.instances) for t in loaded.tasks.values())
        check_space(job.work, _FREE_AT_LEAST + count * _BYTES_PER_REQUEST)
        space = keyed(namespace(model, settings, versions()), thinking)
        parts = [space, preset_digest(job.preset), requests_digest(loaded), settings.generation, standin]
        key = sha(json.dumps(parts, sort_keys=True))
        notes = notes_of(job, loaded, cut, standin)
        return ReasoningPlan(job, model, loaded, template, thinking, notes, key, space, count)


@dataclass(frozen=True)
class ReasoningPlan:
    """A job that passed preflight: prompts built, no model loaded, nothing generated."""

    job: ReasoningJob
    model: ModelIdentity
    loaded: LoadedTasks
    template: Any
    thinking: Thinking
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

    def measure(self, store: AnswerStore) -> Measured | None:
        """Let lm-eval ask and score; None on ranks other than 0."""
        at_endpoint = self.job.ref.kind == "endpoint"
        cache = AnswerCache(store, self.space, self.loaded.versions(), each=at_endpoint)
        try:
            raw = self._evaluate(cache)
        except Exception as error:
            if not at_endpoint or isinstance(error, UserError):
                raise
            # Whatever client library gave up (aiohttp, requests, tenacity): the endpoint failed, our state
            # is whole.
            raise UserError(
                "the endpoint failed during the run",
                got=first_line(error),
                expected="answers",
                remedy="run the same command again: finished answers are kept",
            ) from error
        return None if raw is None else self._measured(raw, cache)

    def documents(self) -> list[tuple[str, int, str]]:
        """Task, number and cluster of every document, before any is measured."""
        notes = []
        for name, group in self.job.preset.tasks().items():
            docs = self.loaded.tasks[name].eval_docs
            notes += [
                (name, number, cluster_key(group.cluster, docs[number]))
                for number in self.loaded.documents(name)
            ]
        return notes

    def part(self, chosen: Mapping[str, Sequence[int]]) -> "ReasoningPlan":
        """The plan for some of the documents, under the prompts of the whole."""
        preset = self.job.preset.selected(list(chosen), None)
        loaded = self.loaded.part(chosen)
        key = sha(json.dumps([self.key, {task: list(numbers) for task, numbers in chosen.items()}]))
        count = sum(len(task.instances) for task in loaded.tasks.values())
        job = dataclasses.replace(self.job, preset=preset)
        return dataclasses.replace(self, job=job, loaded=loaded, key=key, requests=count)

    def leave(self, folder: Path) -> None:
        """Copy the task definitions."""
        shutil.copytree(self.loaded.folder, folder / "tasks", dirs_exist_ok=True)

    def _evaluate(self, cache: AnswerCache) -> dict[str, Any] | None:
        import lm_eval

        settings = self.job.settings
        engine = engines.load_engine(self.job.ref, settings)
        engine.attach(cache, engines.piece_size(self.job.ref, settings), self.thinking)
        manager = lm_eval.tasks.TaskManager(include_path=str(self.loaded.folder), include_defaults=False)
        # Under `accelerate launch` lm-eval deals the documents out to the ranks while it builds the prompts.
        alone = engines.world_size() == 1
        with prebuilt(self.loaded) if alone else contextlib.nullcontext():
            raw: dict[str, Any] | None = lm_eval.simple_evaluate(
                model=engine,
                tasks=list(self.loaded.tasks.values()),
                samples=self.loaded.samples,
                task_manager=manager,
                apply_chat_template=self.template is not None,
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

    def _measured(self, raw: dict[str, Any], cache: AnswerCache) -> Measured:
        preset, failed = self.job.preset, cache.counts["failed"]
        sizes = {task: raw["n-samples"][task]["effective"] for task in preset.tasks()}
        sizes |= {task: len(kept) for task, kept in (self.loaded.samples or {}).items()}
        directions = raw.get("higher_is_better", {})
        scores = task_scores(raw["results"], preset, sizes, self.loaded.versions(), self.notes, directions)
        items = item_records(raw["samples"], preset)
        items, scores = with_repeats(items, scores, preset, self.loaded.tasks, raw["samples"])
        scores += [*gold_score_rows(items, scores), *group_scores(scores, preset)]
        notes = list(dict.fromkeys(note for of_task in self.notes.values() for note in of_task))
        if failed:
            notes.append(no_answer(failed))
        counts = {name: cache.counts[name] for name in ("reused", "computed", "failed")}
        return Measured(
            scores=tuple(scores),
            items=items,
            counts={"items": sum(sizes.values()), "requests": self.requests, **counts},
            settings=recorded(self.job.settings, self.job.ref),
            facts=self.thinking.fact(),
            notes=tuple(notes),
            comparable=not notes,
            complete=not failed,
        )


def _texts(loaded: LoadedTasks) -> Iterator[str]:
    """Prompts and continuations of all requests."""
    for task in loaded.tasks.values():
        for request in task.instances:
            yield from (part for part in request.args[:2] if isinstance(part, str))


def _check_model(job: ReasoningJob) -> ModelIdentity:
    """Check that the model is whole (or answers) and hash it."""
    if job.ref.kind == "outputs":
        raise UserError("a file of texts is no model", got=job.ref.path, expected="a folder or an address")
    model_checks.check_backend(job.settings)
    if job.ref.kind == "endpoint":
        model_checks.check_endpoint(job.ref, job.settings, cached=job.cache is not None)
    return identity(job.ref)


def _check_environment(job: ReasoningJob) -> bool:
    """Check packages and NLTK data; true when the punkt stand-in is in use."""
    preflight.check_packages(job.preset)
    return preflight.check_punkt(job.preset, job.work / "nltk_standin" if job.options.punkt_standin else None)
