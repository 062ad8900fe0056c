"""SummaC-Conv: a small trained layer over histograms of sentence-level entailment."""

from collections.abc import Sequence
from typing import ClassVar

from eval_harness.faithfulness.examples import Evidence, Example, Metric, ScoredExample, by_case
from eval_harness.faithfulness.networks.convolution import (
    WEIGHTS,
    Convolution,
    load_convolution,
    weights_path,
)
from eval_harness.faithfulness.networks.entailment import EntailmentScorer, Image, document_pairs, proof
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.models.identity import hash_files


@register_scorer("summac-conv")
class SummacConv(EntailmentScorer):
    """SummaC-Conv: probability that a summary is faithful, trained on histograms of entailment.

    Per summary sentence (the first ten) the entailments by all document sentences are counted in 23 bins; a
    linear layer makes a number of it, their mean goes through a last layer and a softmax. `weights` is the
    file of both layers. An empty summary counts as one sentence with one entailment of 0.
    Source: Laban et al. 2022, TACL 10, arXiv 2111.09525, as in the authors' release 0.0.4.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("summac_conv", threshold=0.5),)
    paths: ClassVar[frozenset[str]] = frozenset({"model", "weights"})
    weights: str = WEIGHTS

    def check(self) -> None:
        """Check model, labels and weights."""
        super().check()
        load_convolution(weights_path(self.weights))

    def models(self) -> dict[str, str]:
        """Hashes of model and weights."""
        return {**super().models(), "weights": hash_files([weights_path(self.weights)])}

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every summary."""
        layers = load_convolution(weights_path(self.weights))
        scored = [convolved(image, layers) for image in self.entailment_model().images(document_pairs(cases))]
        return by_case(cases, "summac_conv", [value for value, _ in scored], [shown for _, shown in scored])


def convolved(image: Image, layers: Convolution) -> tuple[float, tuple[Evidence, ...]]:
    """SummaC-Conv of an image, and the sentences that pull it down, each scored as if it were alone."""
    features = layers.per_sentence(image.entailment)
    return layers.probability(float(features.mean())), proof(image, [layers.probability(f) for f in features])
