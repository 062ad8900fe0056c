"""How much a summary says of its own document, and of no other."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from eval_harness.faithfulness.examples import Example, Metric, ScoredExample, Scorer
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.faithfulness.text.words import content_words


@register_scorer("content")
class Content(Scorer):
    """Content that the summary shares with its document, up to `enough` words: 0 for one that says nothing.

    Equation: min(1, sum of w(t) / enough) over the distinct content words t that summary and document share,
    w(t) the share of the other documents that lack t; a document with fewer words counts with its own sum.
    What fits any document weighs nothing in any language: a refusal, a formula, a list of function words.
    It says nothing of truth and is gated beside a scorer that does. Content words leave English function
    words out. `enough` 5: half of the one-sentence summaries in docs/faithfulness-meta.md share so many.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("content"),)
    enough: int = Field(5, ge=1, description="an integer of at least 1")

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every summary; the other documents are those of the cases."""
        held = {document: content_words(document) for document in {case.document for case in cases}}
        spread = Counter(word for of_document in held.values() for word in of_document)
        others = len(held) - 1

        def weight(word: str) -> float:
            return 1.0 - (spread[word] - 1) / others if others else 1.0

        scored = []
        for case in cases:
            document = held[case.document]
            most = min(float(self.enough), math.fsum(map(weight, document)))
            sums = [math.fsum(map(weight, document & content_words(summary))) for summary in case.summaries]
            # A document of nothing but words that all documents hold has no content of its own.
            scored.append(
                ScoredExample({"content": tuple(min(1.0, s / most) if most else 0.0 for s in sums)})
            )
        return scored
