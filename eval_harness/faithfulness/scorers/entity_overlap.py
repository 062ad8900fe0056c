"""Names of the summary that the document holds."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from eval_harness.faithfulness.examples import Example, Metric, ScoredExample, Scorer, supported_share
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.faithfulness.text.words import is_caseless, known, names, words


@register_scorer("entity-overlap")
class EntityOverlap(Scorer):
    """Share of the summary's names that the document holds; 1 without names. By rule, no model.

    Names are runs of capitalised words. In a summary that was lower-cased every word counts that
    is neither a function word nor a number.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("entity_overlap", threshold=0.999),)

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every summary."""
        return [supported_share(case, "entity_overlap", _names_in(case)) for case in cases]


def _names_in(case: Example) -> Callable[[list[str]], list[list[bool]]]:
    held = set(words(case.document))

    def check(sentences: list[str]) -> list[list[bool]]:
        per_sentence = names(sentences, is_caseless(sentences, case.document))
        return [[known(name, held) for name in of_sentence] for of_sentence in per_sentence]

    return check
