"""The win-rate suite: two models write, a judge compares in both orders, the candidate's share is counted."""

import dataclasses
import functools
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.judges import Judge, ask
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.identity import sha
from eval_harness.models.reference import ModelRef
from eval_harness.models.settings import environment, versions
from eval_harness.run.folder import check_space, read_items, read_result, write_run
from eval_harness.run.job import BASELINE, Job
from eval_harness.run.registry import register_suite
from eval_harness.types import ItemRecord, Score, SuiteResult
from eval_harness.win_rate.comparisons import METRIC, TIE, Comparison, Judgement, judgements, questions, tally
from eval_harness.win_rate.estimate import estimate
from eval_harness.win_rate.official import check_official, official_facts, run_official
from eval_harness.win_rate.options import judge_of, preset_of, prompts_of
from eval_harness.win_rate.preset import WinRatePreset, parse_preset, select
from eval_harness.win_rate.texts import Slot, Source, is_file, slots_of, source_of

_FREE_AT_LEAST = 64 << 20


@dataclass(frozen=True)
class WinRatePlan:
    """A job that passed preflight: prompts read, models and judge checked, nothing generated or judged."""

    job: Job
    preset: WinRatePreset
    prompts: list[str]
    slots: list[Slot]
    ours: Source
    theirs: Source
    judge: Judge
    against: dict[str, Any]
    key: str

    def line(self) -> str:
        """What would be written and asked, and what it would cost."""
        with self._store() as store:
            known = [source.known(self.slots, store) for source in (self.ours, self.theirs)]
            head = f"win_rate:{self.preset.name} ok: {self.job.role} {self.ours.model.label}"
            missing = sum(text is None for text in known[0])
            texts = f"{len(self.prompts)} prompts, {missing} of {len(self.slots)} texts to write"
            if self.job.role == BASELINE:
                return f"{head}; {texts}"
            asked = estimate(self.prompts, self.slots, known, self.judge, store, self.preset)
            return f"{head}; {texts}; {asked}"

    def execute(self) -> tuple[SuiteResult, list[ItemRecord]]:
        """Write, judge, count. A run with the same key that was finished before is read back."""
        kept = self.job.cache / "runs" / self.key if self.job.cache else None
        if kept is not None and (kept / "result.json").is_file():
            return read_result(kept), read_items(kept)
        self.judge.check()
        started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        counts: dict[str, int] = {"texts_reused": 0, "texts_computed": 0}
        with self._store() as store:
            pairs = self._write(store, counts)
            if self.job.role == BASELINE:
                found = [TIE] * len(pairs)
            else:
                answers, asked = ask(self.judge, questions(pairs), store)
                found = judgements(pairs, answers)
                counts |= {name: asked[name] for name in ("reused", "computed")}
        result = self._result(pairs, found, counts, started, time.monotonic() - clock)
        if self.job.options.get("alpaca_official") and self.job.role != BASELINE:
            result = dataclasses.replace(result, facts=(*result.facts, *self._official(pairs)))
        items = [self._item(pair, one) for pair, one in zip(pairs, found, strict=True)]
        if kept is not None and not result.counts.get("judge_failed"):
            write_run(kept, result, items)
        return result, items

    def _official(self, pairs: list[Comparison]) -> list[tuple[str, str]]:
        annotator = self.job.options["alpaca_official"]
        judge = check_official(self.judge, len(self.slots), len(self.prompts))
        where = self.job.cache or self.job.work
        say = functools.partial(print, file=sys.stderr)
        return official_facts(run_official(pairs, judge, annotator, where, say), annotator)

    def leave(self, folder: Path) -> None:
        """Nothing lies beside the result."""

    @contextmanager
    def _store(self) -> Iterator[AnswerStore]:
        store = AnswerStore((self.job.cache or self.job.work) / "answers.sqlite")
        try:
            yield store
        finally:
            store.close()

    def _write(self, store: AnswerStore, counts: dict[str, int]) -> list[Comparison]:
        written: dict[str, int] = {}
        theirs = self.theirs.texts(self.slots, store, written)
        ours = theirs if self.job.role == BASELINE else self.ours.texts(self.slots, store, written)
        counts |= {f"texts_{name}": number for name, number in written.items()}
        return [
            Comparison(slot.task, slot.doc_id, self.prompts[slot.prompt], mine, other)
            for slot, mine, other in zip(self.slots, ours, theirs, strict=True)
        ]

    def _item(self, pair: Comparison, found: Judgement) -> ItemRecord:
        prompt = hashlib.sha256(pair.prompt.encode("utf-8", "surrogatepass")).hexdigest()
        return ItemRecord(
            task=pair.task,
            doc_id=pair.doc_id,
            prompt_hash=prompt,
            doc_hash=prompt,
            cluster=f"prompt:{prompt[:16]}",
            metrics={METRIC: found.share},
            outputs=[pair.candidate],
            target="",
            prompt=pair.prompt,
        )

    def _result(
        self,
        pairs: list[Comparison],
        found: list[Judgement],
        counts: dict[str, int],
        started: str,
        seconds: float,
    ) -> SuiteResult:
        from eval_harness.win_rate.summary import facts, scores

        count, is_baseline = tally(pairs, found), self.job.role == BASELINE
        if not count.judged:
            reason = next((s for j in found for s in j.statuses), "nothing asked")
            raise UserError(
                "no comparison has a judgement",
                got=f"{count.failed} failed and {count.unparsable} unreadable answers ({reason})",
                expected="answers that the template can read",
                remedy="check judge and template, then run again: answers that failed are asked again",
            )
        version = str(self.preset.version)
        made = _halves(pairs, version) if is_baseline else scores(pairs, found, version)
        notes = [] if is_baseline else self._notes(count.failed, count.unparsable)
        counts |= {"items": count.comparisons, "requests": count.answers, "identical": count.identical}
        counts |= {"judge_failed": count.failed, "judge_unparsable": count.unparsable}
        settings = {
            **self.job.settings.to_json(),
            "sampling": self.preset.sampling.to_json(),
            "win_rate": self.against,
            "max_unjudged": self.preset.max_unjudged,
        }
        return SuiteResult(
            suite=self.preset.suite,
            preset=self.preset.name,
            preset_version=self.preset.version,
            key=self.key,
            model=self.ours.model,
            scores=tuple(made),
            settings=settings,
            seeds=dict(self.job.settings.seeds),
            versions=versions(),
            environment=environment(self.job.settings),
            counts=counts,
            comparable=True,
            notes=tuple(notes),
            facts=() if is_baseline else tuple(facts(pairs, found, made, self.judge)),
            started=started,
            seconds=round(seconds, 3),
        )

    def _notes(self, failed: int, unparsable: int) -> list[str]:
        notes = []
        if failed:
            notes.append(f"{failed} judgements failed; run the same command again to ask them again")
        if unparsable:
            notes.append(f"{unparsable} judgements cannot be read")
        return notes


def _halves(pairs: list[Comparison], version: str) -> list[Score]:
    """The baseline against itself: one half, by definition."""
    return [
        Score(task, METRIC, 0.5, None, sum(p.task == task for p in pairs), normalised=50.0, version=version)
        for task in dict.fromkeys(pair.task for pair in pairs)
    ]


def describe(job: Job) -> str:
    """Check prompts and judge, without a model."""
    preset = preset_of(job)
    prompts, judge = prompts_of(job, preset), judge_of(job, preset)
    return f"{preset.suite}:{preset.name} ok: {len(prompts)} prompts, judge {judge.label}"


@register_suite("win_rate", parse=parse_preset, select=select, describe=describe, default="own")
def prepare(job: Job) -> WinRatePlan:
    """Preflight: read prompts, check both models and the judge; nothing is generated or asked.

    Raises:
      UserError: the first thing that would fail later, with its remedy.
    """
    if job.opponent is None:
        raise UserError("a win rate needs something to win against", expected="--baseline MODEL or FILE")
    preset = preset_of(job)
    prompts, judge = prompts_of(job, preset), judge_of(job, preset)
    check_space(job.work, _FREE_AT_LEAST)
    theirs_ref: ModelRef = job.ref if job.role == BASELINE else job.opponent
    parts = (preset, prompts, preset.sampling, dataclasses.replace(job.settings, generation={}))
    theirs = source_of(theirs_ref, *parts)
    ours = theirs if job.role == BASELINE else source_of(job.ref, *parts)
    slots = slots_of(preset, len(prompts), is_file(job.ref) and is_file(job.opponent))
    against = {
        "judge": judge.settings(),
        "opponent": theirs.digest(),
        "prompts": sha(json.dumps(prompts)),
        "sampling": preset.sampling.to_json(),
    }
    official = job.options.get("alpaca_official")
    if official and job.role != BASELINE:
        check_official(judge, len(slots), len(prompts))
    shape = {**preset.to_json(), "max_unjudged": None}
    whole = ["win_rate", job.role, ours.digest(), against, shape, preset.max_unjudged, len(slots), official]
    key = sha(json.dumps(whole, sort_keys=True))
    return WinRatePlan(job, preset, prompts, slots, ours, theirs, judge, against, key)
