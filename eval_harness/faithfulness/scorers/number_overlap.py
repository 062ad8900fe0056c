"""Numbers of the summary that the document holds."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from eval_harness.faithfulness.examples import Example, Metric, ScoredExample, Scorer, supported_share
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.faithfulness.text.words import numbers


@register_scorer("number-overlap")
class NumberOverlap(Scorer):
    """Share of the summary's numbers (digits or words) that the document holds; 1 without numbers."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("number_overlap", threshold=0.999),)

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every summary."""
        return [supported_share(case, "number_overlap", _numbers_in(case)) for case in cases]


def _numbers_in(case: Example) -> Callable[[list[str]], list[list[bool]]]:
    held = set(numbers(case.document))
    return lambda sentences: [[n in held for n in numbers(sentence)] for sentence in sentences]
