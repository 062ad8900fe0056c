"""The faithfulness suite: documents in, summaries drawn, scored, kept per document."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval_harness.errors import UserError
from eval_harness.faithfulness.documents import Document, read_documents
from eval_harness.faithfulness.examples import Example, Scorer, checked_cases
from eval_harness.faithfulness.options import (
    FaithfulnessOptions,
    add_scorer_flags,
    scorer_options,
    split_names,
)
from eval_harness.faithfulness.preset import SLOT, SummaryPreset, as_floats, task_name
from eval_harness.faithfulness.registry import ScorerSpec, digest
from eval_harness.faithfulness.scoring import control_cases, score_all
from eval_harness.faithfulness.text.words import says_nothing
from eval_harness.files.writing import check_space
from eval_harness.models import engines
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.engine_options import recorded
from eval_harness.models.generation import Generation, Sampling, generate, plan_generation
from eval_harness.models.identity import sha
from eval_harness.models.settings import namespace, versions
from eval_harness.models.thinking import keyed
from eval_harness.run.job import Job, Measured
from eval_harness.run.preset import read_sampling
from eval_harness.run.registry import Suite, register_suite
from eval_harness.types import ModelIdentity

_FREE_AT_LEAST = 64 << 20
_BYTES_PER_SUMMARY = 16384  # text, record and evidence, generously

FaithfulnessJob = Job[SummaryPreset, FaithfulnessOptions]


@register_suite("faithfulness")
class Faithfulness(Suite[SummaryPreset, FaithfulnessOptions]):
    """A model summarises, scorers say how true to the documents it stays."""

    default_preset = "summaries"
    preset_type = SummaryPreset

    def add_flags(self, group: "argparse._ArgumentGroup") -> None:
        """Documents and scorers."""
        group.add_argument("--documents", type=Path, help="JSON Lines of document, perhaps reference and id")
        group.add_argument("--scorers", help="names joined by commas instead of the preset's")
        add_scorer_flags(group)

    def options(self, args: argparse.Namespace) -> FaithfulnessOptions:
        """Documents and scorers."""
        names = tuple(split_names(args.scorers)) if args.scorers else None
        return FaithfulnessOptions(args.documents, names, scorer_options(args))

    def describe(self, job: FaithfulnessJob) -> str:
        """Check documents and scorers, without a model to summarise."""
        documents, scorers = read_documents(job.options.documents, job.preset.limit), _scorers(job)
        _check_scorers(scorers, documents, _sampling(job))
        return (
            f"{job.preset.suite}:{job.preset.name} ok: {len(documents)} documents, scorers "
            f"{', '.join(s.name for s in scorers)} (no model to summarise was named)"
        )

    def prepare(self, job: FaithfulnessJob) -> "FaithfulnessPlan":
        """Preflight: check documents, scorers and model, build all prompts, load no model."""
        settings = dataclasses.replace(job.settings, device=engines.resolve_device(job.settings.device))
        job = dataclasses.replace(job, settings=settings)
        documents, sampling = read_documents(job.options.documents, job.preset.limit), _sampling(job)
        scorers = _scorers(job)
        _check_scorers(scorers, documents, sampling)
        prompts = [job.preset.prompt.replace(SLOT, document.text) for document in documents]
        # The overrides are part of `sampling` by now.
        plain_settings = dataclasses.replace(settings, generation={})
        generation = plan_generation(job.ref, prompts, sampling, plain_settings)
        check_space(job.work, _FREE_AT_LEAST + len(generation.distinct) * _BYTES_PER_SUMMARY)
        digests = [digest(scorer) for scorer in scorers]
        space = keyed(namespace(generation.model, settings, versions()), generation.thinking)
        drawn = dataclasses.asdict(sampling)
        parts = [space, job.preset.content(), drawn, [list(d) for d in documents], digests]
        key = sha(json.dumps(parts, sort_keys=True))
        return FaithfulnessPlan(job, sampling, documents, prompts, scorers, digests, generation, key)


@dataclass(frozen=True)
class FaithfulnessPlan:
    """A job that passed preflight: prompts built, scorers checked, no model loaded."""

    job: FaithfulnessJob
    sampling: Sampling
    documents: list[Document]
    prompts: list[str]
    scorers: list[Scorer]
    digests: list[str]
    generation: Generation
    key: str

    @property
    def model(self) -> ModelIdentity:
        """Who summarises."""
        return self.generation.model

    def line(self) -> str:
        """What would be run and what it takes."""
        preset, drawn = self.job.preset, self.sampling
        cases = self.imagined()
        asked = {s.name: [*cases, *control_cases(s, cases, self.sampling.seed)] for s in self.scorers}
        costs = [f"{s.name} {cost}" for s in self.scorers if (cost := s.cost(asked[s.name]))]
        scoring = f"; if summaries have three sentences: {'; '.join(costs)}" if costs else ""
        return (
            f"{preset.suite}:{preset.name} ok: {len(self.documents)} documents, temperatures "
            f"{', '.join(f'{t:g}' for t in drawn.temperatures)}, {drawn.samples} samples each, "
            f"{len(self.generation.distinct)} summaries, model {self.model.weights[:12]}{scoring}"
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

    def measure(self, store: AnswerStore) -> Measured:
        """Draw summaries, score them, make items and scores."""
        from eval_harness.faithfulness.results import item_records, judge_notes, scores_of

        counts: dict[str, int] = {}
        cases = self._draw(store, counts)
        scored = [
            score_all(scorer, mark, cases, store, self.sampling.seed)
            for scorer, mark in zip(self.scorers, self.digests, strict=True)
        ]
        items = {task: item_records(task, of_task, self.prompts, scored) for task, of_task in cases.items()}
        scores = [score for task, of_task in items.items() for score in scores_of(task, of_task, scored)]
        graded = [example for one in scored for of_task in one.graded.values() for example in of_task]
        failed = sum(example.failed for example in graded) + sum(one.failed for one in scored)
        limits = [limit for s in self.scorers if (limit := s.unjudged_limit()) is not None]
        return Measured(
            scores=tuple(scores),
            items=[item for of_task in items.values() for item in of_task],
            counts={
                "items": sum(map(len, cases.values())),
                "requests": len(self.generation.distinct),
                "reused": counts.get("reused", 0),
                "computed": counts.get("computed", 0),
                "failed": counts.get("failed", 0),
                "judge_failed": failed,
            },
            settings={
                **recorded(self.job.settings, self.job.ref),
                "generation": {**dataclasses.asdict(self.sampling), "prompt": self.job.preset.prompt},
            },
            seeds={"sampling": self.sampling.seed},
            notes=(*self._notes(cases), *judge_notes(scored)),
            facts=self.generation.thinking.fact(),
            max_unjudged=min(limits, default=None),
            complete=not counts.get("failed") and not failed,
        )

    def leave(self, folder: Path) -> None:
        """Nothing lies beside the result."""

    def _draw(self, store: AnswerStore, counts: dict[str, int]) -> dict[str, list[Example]]:
        """Task -> one case per document."""
        texts: dict[tuple[float, int], list[str]] = {}
        for sample in generate(self.generation, store, counts):
            texts.setdefault((sample.temperature, sample.prompt), []).append(sample.text.strip())
        return {
            task_name(t): [
                Example(d.text, tuple(texts[t, number]), d.reference, d.name)
                for number, d in enumerate(self.documents)
            ]
            for t in self.sampling.temperatures
        }

    def _notes(self, cases: dict[str, list[Example]]) -> list[str]:
        summaries = [(text, case.document) for of in cases.values() for case in of for text in case.summaries]
        notes = []
        if empty := sum(not text for text, _ in summaries):
            notes.append(f"{empty} of {len(summaries)} summaries are empty")
        if silent := sum(bool(text) and says_nothing(text, document) for text, document in summaries):
            notes.append(
                f"{silent} of {len(summaries)} summaries share no word of content with their document"
            )
        if self.generation.cut:
            notes.append(f"{self.generation.cut} prompts cut from the left to fit the context")
        return notes


def _sampling(job: FaithfulnessJob) -> Sampling:
    start = dataclasses.replace(job.preset.sampling, seed=job.settings.seeds["random"])
    return as_floats(read_sampling(job.settings.generation, "--generation", start))


def _scorers(job: FaithfulnessJob) -> list[Scorer]:
    specs: Sequence[ScorerSpec] = job.preset.scorers
    if job.options.names:
        options = {spec.name: spec.options for spec in specs}
        specs = [ScorerSpec(name, options.get(name, {})) for name in job.options.names]
    answers = job.cache / "answers.sqlite" if job.cache else None
    return job.options.scorers.build(specs, job.settings.device, answers)


def _check_scorers(scorers: Sequence[Scorer], documents: Sequence[Document], sampling: Sampling) -> None:
    """Check every scorer on what it will get, with summaries left empty."""
    cases = [Example(d.text, ("",) * sampling.samples, d.reference, d.name) for d in documents]
    for scorer in scorers:
        checked_cases(scorer, cases)
        scorer.check()
    names = [metric.name for scorer in scorers for metric in scorer.metrics]
    if len(set(names)) < len(names):
        raise UserError("scorers", got=", ".join(names), expected="every metric once")
