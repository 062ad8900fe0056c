"""The win-rate suite: two models write, a judge compares in both orders, the candidate's share is counted."""

import argparse
import dataclasses
import functools
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.files.writing import check_space
from eval_harness.judges import Judge, ask
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.engine_options import recorded
from eval_harness.models.identity import sha
from eval_harness.models.reference import ModelRef
from eval_harness.run.job import BASELINE, Measured
from eval_harness.run.registry import Suite, register_suite
from eval_harness.types import ASKED, ItemRecord, ModelIdentity
from eval_harness.win_rate.comparisons import (
    LACKING,
    METRIC,
    TIE,
    Comparison,
    Judgement,
    count_notes,
    empty_texts,
    judgements,
    questions,
    settled,
    tally,
    unjudged,
    why_no_information,
)
from eval_harness.win_rate.estimate import estimate
from eval_harness.win_rate.official import check_official, official_facts, run_official
from eval_harness.win_rate.options import (
    WinRateJob,
    WinRateOptions,
    add_flags,
    judge_of,
    options_from,
    preset_of,
    prompts_of,
)
from eval_harness.win_rate.preset import WinRatePreset
from eval_harness.win_rate.texts import Slot, Source, is_file, slots_of, source_of

_FREE_AT_LEAST = 64 << 20


@register_suite("win_rate")
class WinRate(Suite[WinRatePreset, WinRateOptions]):
    """Two models write texts, a judge compares them."""

    default_preset = "own"
    preset_type = WinRatePreset

    def add_flags(self, group: "argparse._ArgumentGroup") -> None:
        """Judge and prompts."""
        add_flags(group)

    def options(self, args: argparse.Namespace) -> WinRateOptions:
        """Judge and prompts."""
        return options_from(args)

    def describe(self, job: WinRateJob) -> str:
        """Check prompts and judge, without a model."""
        preset = preset_of(job)
        prompts, judge = prompts_of(job, preset), judge_of(job, preset)
        return f"{preset.suite}:{preset.name} ok: {len(prompts)} prompts, judge {judge.label}"

    def prepare(self, job: WinRateJob) -> "WinRatePlan":
        """Preflight: read prompts, check both models and the judge; nothing is generated or asked."""
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
            "sampling": dataclasses.asdict(preset.sampling),
        }
        official = job.options.alpaca_official
        if official and job.role != BASELINE:
            check_official(judge, len(slots), len(prompts))
        shape = {**preset.content(), "max_unjudged": None}
        whole = [
            self.name,
            job.role,
            ours.digest(),
            against,
            shape,
            preset.max_unjudged,
            len(slots),
            official,
        ]
        key = sha(json.dumps(whole, sort_keys=True))
        return WinRatePlan(job, preset, prompts, slots, ours, theirs, judge, against, key)


@dataclass(frozen=True)
class WinRatePlan:
    """A job that passed preflight: prompts read, models and judge checked, nothing generated or judged."""

    job: WinRateJob
    preset: WinRatePreset
    prompts: list[str]
    slots: list[Slot]
    ours: Source
    theirs: Source
    judge: Judge
    against: dict[str, Any]
    key: str

    @property
    def model(self) -> ModelIdentity:
        """Who wrote the candidate's texts."""
        return self.ours.model

    def line(self) -> str:
        """What would be written and asked, and what it would cost."""
        with self.job.store() as store:
            known = [source.known(self.slots, store) for source in (self.ours, self.theirs)]
            head = f"win_rate:{self.preset.name} ok: {self.job.role} {self.ours.model.label}"
            missing = sum(text is None for text in known[0])
            texts = f"{len(self.prompts)} prompts, {missing} of {len(self.slots)} texts to write"
            if self.job.role == BASELINE:
                return f"{head}; {texts}"
            asked = estimate(self.prompts, self.slots, known, self.judge, store, self.preset)
            return f"{head}; {texts}; {asked}"

    def measure(self, store: AnswerStore) -> Measured:
        """Write, judge, count."""
        self.judge.check()
        counts: dict[str, int] = {"texts_reused": 0, "texts_computed": 0}
        pairs = self._write(store, counts)
        if self.job.role == BASELINE:
            return self._measured(pairs, [LACKING if pair.failed else TIE for pair in pairs], counts)
        answers, asked = ask(self.judge, questions(pairs), store)
        counts |= {name: asked[name] for name in ("reused", "computed")}
        why = next((answer.text for answer in answers if answer.value is None), "no text came")
        return self._measured(pairs, judgements(pairs, answers), counts, why)

    def _settled(self, pairs: list[Comparison], judged: list[Judgement]) -> tuple[list[Judgement], str]:
        """Judgements as they count, and why nothing may be decided by them; empty where it may."""
        if sum(pair.asked for pair in pairs) <= self.preset.max_unjudged * len(pairs):
            return judged, ""  # too few to move a verdict, and too few to say anything of the judge
        reason = why_no_information(judged, self.judge.order_free)
        return (judged, reason) if reason else (settled(judged, self.preset.max_contradictory), "")

    def _official(self, pairs: list[Comparison]) -> list[tuple[str, str]]:
        annotator = self.job.options.alpaca_official
        if not annotator:
            return []
        if any(pair.failed for pair in pairs):
            return [("alpaca-eval", "not asked: some texts did not come")]
        judge = check_official(self.judge, len(self.slots), len(self.prompts))
        where = self.job.cache or self.job.work
        say = functools.partial(print, file=sys.stderr)
        return official_facts(run_official(pairs, judge, annotator, where, say), annotator)

    def leave(self, folder: Path) -> None:
        """Nothing lies beside the result."""

    def _write(self, store: AnswerStore, counts: dict[str, int]) -> list[Comparison]:
        written: dict[str, int] = {}
        theirs = self.theirs.texts(self.slots, store, written)
        ours = theirs if self.job.role == BASELINE else self.ours.texts(self.slots, store, written)
        counts |= {f"texts_{name}": number for name, number in written.items()}
        return [
            Comparison(
                *(slot.task, slot.doc_id, self.prompts[slot.prompt], mine or "", other or ""),
                failed=mine is None or other is None,
            )
            for slot, mine, other in zip(self.slots, ours, theirs, strict=True)
        ]

    def _item(self, pair: Comparison, judgement: Judgement) -> ItemRecord:
        prompt = hashlib.sha256(pair.prompt.encode("utf-8", "surrogatepass")).hexdigest()
        return ItemRecord(
            task=pair.task,
            doc_id=pair.doc_id,
            prompt_hash=prompt,
            doc_hash=prompt,
            cluster=f"prompt:{prompt[:16]}",
            metrics={METRIC: judgement.share},
            outputs=[pair.candidate],
            target="",
            prompt=pair.prompt,
            orders=list(judgement.of_candidate) if pair.asked else [],
        )

    def _measured(
        self,
        pairs: list[Comparison],
        judged: list[Judgement],
        counts: dict[str, int],
        why: str = "no text came",
    ) -> Measured:
        from eval_harness.win_rate.summary import facts, halves, scores

        count = tally(pairs, judged)
        if not count.judged:
            raise UserError(
                "no comparison has a judgement",
                got=f"{count.failed} failed and {count.unparsable} unreadable answers ({why})",
                expected="answers that the template can read",
                remedy="check judge and template, then run again: answers that failed are asked again",
            )
        version, is_baseline = str(self.preset.version), self.job.role == BASELINE
        judged, undecidable = (judged, "") if is_baseline else self._settled(pairs, judged)
        made = halves(pairs, version) if is_baseline else scores(pairs, judged, version)
        shown = [] if is_baseline else [*facts(pairs, judged, made, self.judge), *self._official(pairs)]
        shown += self.ours.facts()
        counts |= {"items": count.comparisons, "requests": count.answers, "identical": count.identical}
        counts |= {"judge_failed": count.failed, "judge_unparsable": count.unparsable}
        return Measured(
            scores=tuple(made),
            items=[self._item(pair, one) for pair, one in zip(pairs, judged, strict=True)],
            counts=counts,
            settings={
                **recorded(self.job.settings, self.job.ref),
                "sampling": dataclasses.asdict(self.preset.sampling),
                "win_rate": self.against,
            },
            notes=(
                *empty_texts(pairs, both=not is_baseline),
                *unjudged(judged),
                *count_notes(sum(pair.failed for pair in pairs), count),
            ),
            facts=tuple(shown),
            asked=(*ASKED, "win_rate"),
            max_unjudged=self.preset.max_unjudged,
            undecidable=undecidable,
            complete=not count.failed,
        )
