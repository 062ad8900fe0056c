"""A judge's rating of a summary against its document, through the judge layer."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Evidence, Example, Metric, ScoredExample, Scorer, worst_first
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.faithfulness.text.sentences import split_sentences
from eval_harness.faithfulness.text.words import nearest
from eval_harness.judges import Answer, Judge, Question, ask, read_judge
from eval_harness.judges.types import FAILED
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.identity import sha

_UNPARSABLE = 0.5  # neither way: an answer that cannot be read says nothing


@register_scorer("llm-judge")
class LlmJudge(Scorer):
    """A judge's rating of the summary against the document, in [0, 1].

    `judge` is a judge's name or a YAML file of its options; `url` and `model` go over the file's. `template`
    is a rating template with the fields document and text. With `by_sentence` every sentence is asked about
    and the least counts. An empty summary scores 0 unasked, an answer that cannot be read 0.5.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("llm_judge", threshold=0.5),)
    paths: ClassVar[frozenset[str]] = frozenset({"judge", "url", "model"})
    judge: str = "http"
    url: str = ""
    model: str = ""
    template: str = "faithful"
    by_sentence: bool = False

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

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every summary. Raises UserError: a call that failed, a rating that is not in [0, 1]."""
        store = AnswerStore(self.run_on.answers or Path(":memory:"))
        try:
            answers, counts = ask(self._judge(), self._questions(cases), store)
        finally:
            store.close()
        if counts["failed"]:
            reason = next(a.text for a in answers if a.status == FAILED)
            raise UserError(
                f"the judge failed {counts['failed']} times",
                got=reason,
                expected="an answer to every question",
                remedy="run the same command again: finished answers are kept",
            )
        if unread := sum(answer.value is None for answer in answers):
            print(f"llm-judge: {unread} of {len(answers)} answers cannot be read", file=sys.stderr)
        values = iter([self._value(answer) for answer in answers])
        return [self._grade(case, values) for case in cases]

    def _value(self, answer: Answer) -> float:
        value = _UNPARSABLE if answer.value is None else float(answer.value)
        if not 0 <= value <= 1:
            raise UserError(
                "scorer llm-judge", got=f"a rating of {value:g}", expected="a judge that rates from 0 to 1"
            )
        return value

    def _grade(self, case: Example, values: Iterator[float]) -> ScoredExample:
        document = split_sentences(case.document)
        least, evidence = [], []
        for summary in case.summaries:
            rated = [Evidence(nearest(text, document), text, next(values)) for text in self._texts(summary)]
            least.append(min((e.score for e in rated), default=0.0))
            evidence.append(worst_first(rated) if self.by_sentence else ())
        return ScoredExample({"llm_judge": tuple(least)}, tuple(evidence))
