"""How much of a summary's wording is its own."""

from collections.abc import Sequence
from typing import ClassVar

from eval_harness.faithfulness.examples import Example, Metric, ScoredExample, Scorer
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.faithfulness.text.words import ngrams, words

_ORDERS = (1, 2, 3, 4)


@register_scorer("novel-ngrams")
class NovelNgrams(Scorer):
    """Share of the summary's n-grams (n = 1 to 4) that the document lacks; high means abstractive.

    It describes a summary; as a measure of faithfulness it only says that copied text is faithful. 0 where a
    summary has no n-gram.
    Source: See et al. 2017, arXiv 1704.04368, section 6.2.
    """

    metrics: ClassVar[tuple[Metric, ...]] = tuple(
        Metric(f"novel_{order}grams", higher_is_better=False, main=False) for order in _ORDERS
    )

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every summary."""
        return [_case(case) for case in cases]


def _case(case: Example) -> ScoredExample:
    document = words(case.document)
    held = {order: ngrams(document, order) for order in _ORDERS}
    values: dict[str, list[float]] = {f"novel_{order}grams": [] for order in _ORDERS}
    for summary in case.summaries:
        tokens = words(summary)
        for order in _ORDERS:
            grams = ngrams(tokens, order)
            new = sum(count for gram, count in grams.items() if gram not in held[order])
            values[f"novel_{order}grams"].append(new / total if (total := grams.total()) else 0.0)
    return ScoredExample({name: tuple(row) for name, row in values.items()})
