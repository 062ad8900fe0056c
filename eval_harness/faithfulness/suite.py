"""The faithfulness suite: documents in, summaries drawn, scored, kept per document."""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.faithfulness.documents import Document, read_documents
from eval_harness.faithfulness.examples import Example, ScoredExample, Scorer, checked_cases
from eval_harness.faithfulness.flags import build_scorers, split_names
from eval_harness.faithfulness.preset import SLOT, SummaryPreset, parse, sampling_from, select, task_name
from eval_harness.faithfulness.registry import ScorerSpec, digest
from eval_harness.models import engines
from eval_harness.models.answer_store import AnswerStore, entry_key
from eval_harness.models.generation import Sampling, generate, plan_generation
from eval_harness.models.generation.run import Generation
from eval_harness.models.identity import sha
from eval_harness.models.settings import environment, namespace, versions
from eval_harness.run.folder import check_space, read_items, read_result, write_run
from eval_harness.run.job import Job
from eval_harness.run.registry import register_suite
from eval_harness.types import ItemRecord, SuiteResult

_FREE_AT_LEAST = 64 << 20
_BYTES_PER_SUMMARY = 16384  # text, record and evidence, generously
_AT_ONCE = 64  # documents scored before their scores are on disk
_VERSION = "1"  # of what a stored score depends on


@dataclass(frozen=True)
class FaithfulnessPlan:
    """A job that passed preflight: prompts built, scorers checked, no model loaded."""

    job: Job
    sampling: Sampling
    documents: list[Document]
    prompts: list[str]
    scorers: list[Scorer]
    digests: list[str]
    generation: Generation
    key: str

    def line(self) -> str:
        """What would be run and what it takes."""
        preset, drawn = self.job.preset, self.sampling
        costs = [f"{s.name} {cost}" for s in self.scorers if (cost := s.cost(self.imagined()))]
        scoring = f"; if summaries have three sentences: {'; '.join(costs)}" if costs else ""
        return (
            f"{preset.suite}:{preset.name} ok: {len(self.documents)} documents, temperatures "
            f"{', '.join(f'{t:g}' for t in drawn.temperatures)}, {drawn.samples} samples each, "
            f"{len(self.generation.distinct)} summaries, model {self.generation.model.weights[:12]}{scoring}"
        )

    def imagined(self) -> list[Example]:
        """Cases with invented summaries of three sentences, all different: for the cost of scoring."""
        drawn = self.sampling
        count = 1 if drawn.temperatures == (0.0,) else drawn.samples
        invented = [
            f"Sample {n} says this. " + f"Sample {n} says that. " + f"It is {n}, no more."
            for n in range(count)
        ]
        return [Example(d.text, tuple(invented), d.reference or "") for d in self.documents]

    def execute(self) -> tuple[SuiteResult, list[ItemRecord]] | None:
        """Measure. A run with the same key that was finished before is read back."""
        return execute(self)

    def leave(self, folder: Path) -> None:
        """Nothing lies beside the result."""


def describe(job: Job) -> str:
    """Check documents and scorers, without a model to summarise."""
    documents, scorers = read_documents(job.options.get("documents"), job.preset.limit), _scorers(job)
    _check_scorers(scorers, documents, _sampling(job))
    return (
        f"{job.preset.suite}:{job.preset.name} ok: {len(documents)} documents, scorers "
        f"{', '.join(s.name for s in scorers)} (no model to summarise was named)"
    )


@register_suite("faithfulness", parse=parse, select=select, describe=describe, default="summaries")
def prepare(job: Job) -> FaithfulnessPlan:
    """Preflight: check documents, scorers and model, build all prompts, load no model.

    Raises:
      UserError: the first thing that would fail later, with its remedy.
    """
    settings = dataclasses.replace(job.settings, device=engines.resolve_device(job.settings.device))
    job = dataclasses.replace(job, settings=settings)
    preset: SummaryPreset = job.preset
    documents, sampling = read_documents(job.options.get("documents"), preset.limit), _sampling(job)
    scorers = _scorers(job)
    _check_scorers(scorers, documents, sampling)
    prompts = [preset.prompt.replace(SLOT, document.text) for document in documents]
    # The overrides are part of `sampling` by now.
    generation = plan_generation(job.ref, prompts, sampling, dataclasses.replace(settings, generation={}))
    check_space(job.work, _FREE_AT_LEAST + len(generation.distinct) * _BYTES_PER_SUMMARY)
    digests = [digest(scorer) for scorer in scorers]
    space = namespace(generation.model, settings, versions())
    parts = [space, preset.to_json(), sampling.to_json(), [list(d) for d in documents], digests]
    key = sha(json.dumps(parts, sort_keys=True))
    return FaithfulnessPlan(job, sampling, documents, prompts, scorers, digests, generation, key)


def _sampling(job: Job) -> Sampling:
    changes = dict(job.settings.generation)
    start = dataclasses.replace(job.preset.sampling, seed=job.settings.seeds["random"])
    return sampling_from(start, changes, "--generation")


def _scorers(job: Job) -> list[Scorer]:
    wanted: Sequence[ScorerSpec] = job.preset.scorers
    if named := job.options.get("scorers"):
        options = {w.name: w.options for w in wanted}
        wanted = [ScorerSpec(name, options.get(name, {})) for name in split_names(named)]
    answers = job.cache / "answers.sqlite" if job.cache else None
    return build_scorers(wanted, job.options, job.settings.device, answers)


def _check_scorers(scorers: Sequence[Scorer], documents: Sequence[Document], sampling: Sampling) -> None:
    """Check every scorer on what it will get, with summaries left empty."""
    cases = [Example(d.text, ("",) * sampling.samples, d.reference, d.name) for d in documents]
    for scorer in scorers:
        checked_cases(scorer, cases)
        scorer.check()
    names = [metric.name for scorer in scorers for metric in scorer.metrics]
    if len(set(names)) < len(names):
        raise UserError("scorers", got=", ".join(names), expected="every metric once")


def execute(plan: FaithfulnessPlan) -> tuple[SuiteResult, list[ItemRecord]]:
    """Draw summaries, score them, make items and scores."""
    from eval_harness.faithfulness.results import Scored, item_records, scores_of

    job = plan.job
    kept = job.cache / "runs" / plan.key if job.cache else None
    if kept is not None and (kept / "result.json").is_file():
        return read_result(kept), read_items(kept)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    store = AnswerStore((job.cache or job.work) / "answers.sqlite")
    counts: dict[str, int] = {}
    try:
        cases = _draw(plan, store, counts)
        scored = [
            Scored(scorer, mark, {task: _score(scorer, mark, own, store) for task, own in cases.items()})
            for scorer, mark in zip(plan.scorers, plan.digests, strict=True)
        ]
    finally:
        store.close()
    items = {task: item_records(task, own, plan.prompts, scored) for task, own in cases.items()}
    scores = [score for task, own in items.items() for score in scores_of(task, own, scored)]
    result = _result(plan, tuple(scores), cases, counts, started, time.monotonic() - clock)
    flat = [item for own in items.values() for item in own]
    if kept is not None:
        write_run(kept, result, flat)
    return result, flat


def _draw(plan: FaithfulnessPlan, store: AnswerStore, counts: dict[str, int]) -> dict[str, list[Example]]:
    """Task -> one case per document."""
    texts: dict[tuple[float, int], list[str]] = {}
    for sample in generate(plan.generation, store, counts):
        texts.setdefault((sample.temperature, sample.prompt), []).append(sample.text.strip())
    return {
        task_name(t): [
            Example(d.text, tuple(texts[t, place]), d.reference, d.name)
            for place, d in enumerate(plan.documents)
        ]
        for t in plan.sampling.temperatures
    }


def _score(scorer: Scorer, mark: str, cases: list[Example], store: AnswerStore) -> list[ScoredExample]:
    """Score; of scorers with a model every finished piece is stored, and read again."""
    if not scorer.models():
        return scorer.score(cases)
    keys = [entry_key(mark, "score", _VERSION, "case", [c.document, c.summaries, c.reference]) for c in cases]
    held = {key: ScoredExample.from_json(value) for key, value in store.read(keys).items()}
    todo = {key: case for key, case in zip(keys, cases, strict=True) if key not in held}
    if todo and (cost := scorer.cost(list(todo.values()))):
        print(f"scoring with {scorer.name}: {cost}", file=sys.stderr, flush=True)
    waiting = list(todo.items())
    for start in range(0, len(waiting), _AT_ONCE):
        part = dict(waiting[start : start + _AT_ONCE])
        found = dict(zip(part, scorer.score(list(part.values())), strict=True))
        store.write({key: graded.to_json() for key, graded in found.items()})
        held |= found
    return [held[key] for key in keys]


def _result(
    plan: FaithfulnessPlan,
    scores: tuple[Any, ...],
    cases: dict[str, list[Example]],
    counts: dict[str, int],
    started: str,
    seconds: float,
) -> SuiteResult:
    preset, settings = plan.job.preset, plan.job.settings
    summaries = [text for own in cases.values() for case in own for text in case.summaries]
    notes = []
    if empty := sum(not text for text in summaries):
        notes.append(f"{empty} of {len(summaries)} summaries are empty")
    if plan.generation.cut:
        notes.append(f"{plan.generation.cut} prompts cut from the left to fit the context")
    asked = {**plan.sampling.to_json(), "prompt": preset.prompt}
    return SuiteResult(
        suite=preset.suite,
        preset=preset.name,
        preset_version=preset.version,
        key=plan.key,
        model=plan.generation.model,
        scores=scores,
        settings={**settings.to_json(), "generation": asked},
        seeds={**settings.seeds, "sampling": plan.sampling.seed},
        versions=versions(),
        environment=environment(settings),
        counts={
            "items": sum(map(len, cases.values())),
            "requests": len(plan.generation.distinct),
            "reused": counts.get("reused", 0),
            "computed": counts.get("computed", 0),
            "failed": 0,
        },
        comparable=True,
        notes=tuple(notes),
        started=started,
        seconds=round(seconds, 3),
    )
