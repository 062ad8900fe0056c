"""A judge's rating of a summary against its document, through the judge layer."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Evidence, Example, Metric, ScoredExample, Scorer, worst_first
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.faithfulness.text.sentences import split_sentences
from eval_harness.faithfulness.text.words import nearest
from eval_harness.judges import Answer, Judge, Question, ask, read_judge
from eval_harness.judges.types import FAILED
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.identity import sha


@register_scorer("llm-judge")
class LlmJudge(Scorer):
    """A judge's rating of the summary against the document, in [0, 1].

    `judge` is a judge's name or a YAML file of its options; `url` and `model` go over the file's. `template`
    is a rating template with the fields document and text. With `by_sentence` every sentence is asked about
    and the least counts. An empty summary scores 0 unasked. A summary whose rating failed or cannot be read
    has none: beyond a share of `max_unjudged` of them a gate is UNDECIDED, and so it is where `controls`
    summaries are rated no higher against their own document than against another; 0 does not check.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("llm_judge", threshold=0.5, judged=True),)
    paths: ClassVar[frozenset[str]] = frozenset({"judge", "url", "model"})
    judge: str = "http"
    url: str = ""
    model: str = ""
    template: str = "faithful"
    by_sentence: bool = False
    max_unjudged: float = Field(0.02, ge=0, lt=1, description="a share from 0 to below 1")
    controls: int = Field(24, ge=0, description="an integer of at least 0")

    def _judge(self) -> Judge:
        given = {key: value for key in ("url", "model") if (value := getattr(self, key))}
        return read_judge(self.judge, given, self.template, kind="rating")

    def check(self) -> None:
        """Check judge and template."""
        self._judge().cost([])

    def models(self) -> dict[str, str]:
        """The judge with its template, without secrets."""
        return {"judge": sha(json.dumps(self._judge().settings(), sort_keys=True))}

    def _texts(self, summary: str) -> list[str]:
        return split_sentences(summary) if self.by_sentence else [summary.strip()] if summary.strip() else []

    def _questions(self, cases: Sequence[Example]) -> list[Question]:
        return [
            Question({"document": case.document, "text": text})
            for case in cases
            for summary in case.summaries
            for text in self._texts(summary)
        ]

    def cost(self, cases: Sequence[Example]) -> str:
        """Calls, tokens and, where the judge names prices, what they come to."""
        cost = self._judge().cost(self._questions(cases))
        price = "" if cost.price is None else f", price {cost.price:.2f}"
        read, written = cost.prompt_tokens, cost.answer_tokens
        return f"{cost.calls} calls, about {read} tokens read and {written} written{price}"

    def unjudged_limit(self) -> float | None:
        """As the option says."""
        return self.max_unjudged

    def control_questions(self) -> int | None:
        """As the option says."""
        return self.controls

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every summary. Raises UserError: a rating that is not in [0, 1], a judge that refuses."""
        store = AnswerStore(self.run_on.answers or Path(":memory:"))
        try:
            answers, _ = ask(self._judge(), self._questions(cases), store)
        finally:
            store.close()
        for answer in answers:
            if answer.value is not None and not 0 <= answer.value <= 1:
                raise UserError(
                    "scorer llm-judge",
                    got=f"a rating of {answer.value:g}",
                    expected="a judge that rates from 0 to 1",
                )
        rest = iter(answers)
        return [self._grade(case, rest) for case in cases]

    def _grade(self, case: Example, answers: Iterator[Answer]) -> ScoredExample:
        document = split_sentences(case.document)
        least: list[float | None] = []
        evidence, failed = [], 0
        for summary in case.summaries:
            said = [(text, next(answers)) for text in self._texts(summary)]
            failed += sum(answer.status == FAILED for _, answer in said)
            rated = [Evidence(nearest(t, document), t, a.value) for t, a in said if a.value is not None]
            whole = len(rated) == len(said)  # the least of ratings is unknown while one is missing
            least.append(min((e.score for e in rated), default=0.0) if whole else None)
            evidence.append(worst_first(rated) if self.by_sentence else ())
        return ScoredExample({"llm_judge": tuple(least)}, tuple(evidence), failed)
