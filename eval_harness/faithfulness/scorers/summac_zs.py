"""SummaC-ZS: sentence-level entailment without training."""

from collections.abc import Sequence
from typing import ClassVar

from eval_harness.faithfulness.examples import Evidence, Example, Metric, ScoredExample, by_case
from eval_harness.faithfulness.networks.entailment import EntailmentScorer, Image, document_pairs, proof
from eval_harness.faithfulness.registry import register_scorer


@register_scorer("summac-zs")
class SummacZs(EntailmentScorer):
    """SummaC-ZS: mean over summary sentences of (best entailment - worst contradiction) by the document.

    Equation: mean_j (max_i E_ij - max_i C_ij) over document sentences i and summary sentences j, in [-1, 1];
    with `contradiction` false mean_j max_i E_ij. A summary without a sentence of more than ten characters, so
    an empty one too, scores 0. `labels` names the model's outputs where its configuration does not.
    Source: Laban et al. 2022, TACL 10, arXiv 2111.09525, as in the authors' release 0.0.4.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("summac_zs", low=-1.0, threshold=0.0),)
    contradiction: bool = True

    def check(self) -> None:
        """Check that the model is there and its labels are those of an NLI model."""
        self.entailment_model().check(need_contradiction=self.contradiction)

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every summary."""
        images = self.entailment_model().images(document_pairs(cases))
        scored = [zero_shot(image, self.contradiction) for image in images]
        return by_case(cases, "summac_zs", [value for value, _ in scored], [shown for _, shown in scored])


def zero_shot(image: Image, contradiction: bool) -> tuple[float, tuple[Evidence, ...]]:
    """SummaC-ZS of an image, and the sentences that pull it down."""
    per_sentence = image.entailment.max(axis=0)
    if contradiction:
        per_sentence = per_sentence - image.contradiction.max(axis=0)
    return float(per_sentence.mean()), proof(image, per_sentence.tolist())
