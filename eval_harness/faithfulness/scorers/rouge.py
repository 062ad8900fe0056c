"""ROUGE by the rouge-score package."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from eval_harness.errors import UserError
from eval_harness.faithfulness.choice import AGAINST, one_of, other_text
from eval_harness.faithfulness.examples import Example, Metric, ScoredExample, Scorer
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.faithfulness.text.sentences import split_sentences

_NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_MEASURES = ("fmeasure", "precision", "recall")


@register_scorer("rouge")
@dataclass(frozen=True)
class Rouge(Scorer):
    """ROUGE-1, -2, -L and -Lsum: words shared with the reference (or the document).

    `against` is reference or document; `measure` fmeasure, precision (the share of the summary that the other
    text holds) or recall. For ROUGE-Lsum both texts are split into sentences.
    """

    metrics: ClassVar[tuple[Metric, ...]] = tuple(Metric(name) for name in _NAMES)
    against: str = "reference"
    measure: str = "fmeasure"
    stem: bool = True

    def wants_reference(self) -> bool:
        """Whether every case needs a reference."""
        return self.against == "reference"

    def check(self) -> None:
        """Check options and package."""
        one_of(self.name, "against", self.against, AGAINST)
        one_of(self.name, "measure", self.measure, _MEASURES)
        if importlib.util.find_spec("rouge_score") is None:
            raise UserError(
                "a package is missing", got="no rouge_score", remedy='pip install "sparsepo[eval]"'
            )

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every summary."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(list(_NAMES), use_stemmer=self.stem)
        return [self._case(scorer, case) for case in cases]

    def _case(self, scorer: Any, case: Example) -> ScoredExample:
        other = "\n".join(split_sentences(other_text(case, self.against)))
        found = [scorer.score(other, "\n".join(split_sentences(summary))) for summary in case.summaries]
        return ScoredExample(
            {name: tuple(float(getattr(f[name], self.measure)) for f in found) for name in _NAMES}
        )
