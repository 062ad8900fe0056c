"""ROUGE by the rouge-score package."""

import importlib.util
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Against, Example, Metric, ScoredExample, Scorer
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.faithfulness.text.sentences import split_sentences

_NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@register_scorer("rouge")
class Rouge(Scorer):
    """ROUGE-1, -2, -L and -Lsum: words shared with the reference (or the document).

    `against` is reference or document; `measure` fmeasure, precision (the share of the summary that the other
    text holds) or recall. For ROUGE-Lsum both texts are split into sentences.
    """

    metrics: ClassVar[tuple[Metric, ...]] = tuple(Metric(name) for name in _NAMES)
    against: Against = "reference"
    measure: Literal["fmeasure", "precision", "recall"] = "fmeasure"
    stem: bool = True

    def wants_reference(self) -> bool:
        """Whether every case needs a reference."""
        return self.against == "reference"

    def check(self) -> None:
        """Check the package."""
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
        other = "\n".join(split_sentences(case.other_text(self.against)))
        measured = [scorer.score(other, "\n".join(split_sentences(summary))) for summary in case.summaries]
        return ScoredExample(
            {name: tuple(float(getattr(f[name], self.measure)) for f in measured) for name in _NAMES}
        )
