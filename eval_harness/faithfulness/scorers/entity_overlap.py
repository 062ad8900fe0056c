"""Names of the summary that the document holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from eval_harness.faithfulness.examples import Example, Metric, ScoredExample, Scorer
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.faithfulness.text.support import supported_share
from eval_harness.faithfulness.text.words import is_caseless, known, names, words


@register_scorer("entity-overlap")
@dataclass(frozen=True)
class EntityOverlap(Scorer):
    """Share of the summary's names that the document holds; 1 without names. By rule, no model.

    Names are runs of capitalised words. In a summary that was lower-cased every word counts that
    is neither a function word nor a number.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("entity_overlap", threshold=0.999),)

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every summary."""
        return [supported_share(case, "entity_overlap", _check_of(case)) for case in cases]


def _check_of(case: Example) -> Callable[[list[str]], list[list[bool]]]:
    held = set(words(case.document))

    def check(sentences: list[str]) -> list[list[bool]]:
        found = names(sentences, is_caseless(sentences, case.document))
        return [[known(name, held) for name in own] for own in found]

    return check
