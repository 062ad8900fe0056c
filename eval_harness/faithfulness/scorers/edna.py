"""EDNA: samples that are true to the document and differ from each other."""

from collections.abc import Sequence
from itertools import permutations
from typing import ClassVar, Literal

import numpy as np

from eval_harness.faithfulness.examples import Example, Metric, ScoredExample
from eval_harness.faithfulness.networks.convolution import WEIGHTS, load_convolution, weights_path
from eval_harness.faithfulness.networks.entailment import EntailmentScorer, Image, count_pairs
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.models.identity import hash_files


@register_scorer("edna")
class Edna(EntailmentScorer):
    """EDNA: harmonic mean of document entailment and one minus self-entailment of a document's samples.

    Equation: D = mean_i e(document, s_i), S = mean_{i != j} e(s_i, s_j), EDNA = 2 D (1 - S) / (D + 1 - S),
    per document. `entailment` is e: summac-conv, as in the paper on SparsePO, or summac-zs without its
    contradictions (mean_j max_i E_ij), which needs no trained weights.
    Source: Narayan et al. 2022, arXiv 2203.15108, who used another NLI model: absolute numbers differ.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("edna", per_summary=False),
        Metric("document_entailment", per_summary=False, main=False),
        Metric("self_entailment", per_summary=False, higher_is_better=False, main=False),
    )
    least_samples: ClassVar[int] = 2
    paths: ClassVar[frozenset[str]] = frozenset({"model", "weights"})
    weights: str = WEIGHTS
    entailment: Literal["summac-conv", "summac-zs"] = "summac-conv"

    def check(self) -> None:
        """Check model, labels and weights."""
        super().check()
        if self.entailment == "summac-conv":
            load_convolution(weights_path(self.weights))

    def models(self) -> dict[str, str]:
        """Hashes of model and weights."""
        hashes = super().models()
        if self.entailment == "summac-conv":
            hashes["weights"] = hash_files([weights_path(self.weights)])
        return hashes

    def cost(self, cases: Sequence[Example]) -> str:
        """Number of sentence pairs."""
        texts = [pair for case in cases for pair in _texts(case)]
        return count_pairs(texts, self.document_sentences, self.model)

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every document's samples."""
        layers = load_convolution(weights_path(self.weights)) if self.entailment == "summac-conv" else None

        def value(image: Image) -> float:
            if layers is None:
                return float(image.entailment.max(axis=0).mean())
            return layers.probability(float(layers.per_sentence(image.entailment).mean()))

        texts = [_texts(case) for case in cases]
        images = iter(self.entailment_model().images([pair for of_case in texts for pair in of_case]))
        scored = []
        for case, of_case in zip(cases, texts, strict=True):
            values = [value(next(images)) for _ in of_case]
            count = len(case.summaries)
            scored.append(_scored(float(np.mean(values[:count])), float(np.mean(values[count:]))))
        return scored


def _texts(case: Example) -> list[tuple[str, str]]:
    """(document, sample) of all samples, then every ordered pair of two samples."""
    return [(case.document, summary) for summary in case.summaries] + list(permutations(case.summaries, 2))


def _scored(document: float, among: float) -> ScoredExample:
    return ScoredExample(
        {"edna": (edna(document, among),), "document_entailment": (document,), "self_entailment": (among,)}
    )


def edna(document_entailment: float, self_entailment: float) -> float:
    """Harmonic mean of document entailment and 1 - self-entailment, 0 where both are 0."""
    apart = 1.0 - self_entailment
    total = document_entailment + apart
    return 2.0 * document_entailment * apart / total if total > 0 else 0.0
