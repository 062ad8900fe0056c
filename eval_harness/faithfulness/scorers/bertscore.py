"""BERTScore, on any encoder."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from eval_harness.faithfulness.examples import Against, Example, Metric, ScoredExample, Scorer
from eval_harness.faithfulness.networks.encoder import Embedded, choose_layer, encoder
from eval_harness.faithfulness.networks.loading import find_model, model_hash
from eval_harness.faithfulness.registry import register_scorer

_AT_ONCE = 32  # cases embedded together: bounds the memory of their vectors


class Match(NamedTuple):
    """Precision, recall and F1 of greedy matching, in [-1, 1]."""

    precision: float
    recall: float
    f1: float


@register_scorer("bertscore")
class BertScore(Scorer):
    """BERTScore: greedy matching of token embeddings with the reference (or the document).

    Equation: precision = mean over summary tokens of the best cosine with a token of the other text, recall
    the reverse, F1 their harmonic mean; CLS and SEP can be matched but do not count. No idf weights, no
    rescaling. `layer` 0 takes the tuned layer of known models. 0 where a text is empty.
    Source: Zhang et al. 2020, arXiv 1904.09675; equal to the bert-score package where no text is cut.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("bertscore_f1", low=-1.0),
        Metric("bertscore_precision", low=-1.0, main=False),
        Metric("bertscore_recall", low=-1.0, main=False),
    )
    paths: ClassVar[frozenset[str]] = frozenset({"model"})
    model: str = "roberta-large"
    layer: int = 0
    against: Against = "reference"

    def wants_reference(self) -> bool:
        """Whether every case needs a reference."""
        return self.against == "reference"

    def check(self) -> None:
        """Check model and layer."""
        choose_layer(self.model, find_model(self.model, self.name), self.layer, self.name)

    def models(self) -> dict[str, str]:
        """Hash of the model."""
        return {"model": model_hash(find_model(self.model, self.name))}

    def cost(self, cases: Sequence[Example]) -> str:
        """Number of texts."""
        texts = {t for case in cases for t in (*case.summaries, case.other_text(self.against))}
        return f"{len(texts)} texts through {self.model}"

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every summary."""
        folder = find_model(self.model, self.name)
        layer = choose_layer(self.model, folder, self.layer, self.name)
        machine = encoder(folder, layer, self.name, self.run_on)
        others = [case.other_text(self.against) for case in cases]
        # Cases of one text together, wherever they stand: it is encoded once.
        first = {text: number for number, text in reversed(list(enumerate(others)))}
        order = sorted(range(len(cases)), key=lambda number: first[others[number]])
        graded: dict[int, ScoredExample] = {}
        for start in range(0, len(order), _AT_ONCE):
            part = order[start : start + _AT_ONCE]
            vectors = machine.embed(
                [t for number in part for t in (others[number], *cases[number].summaries)]
            )
            graded |= {number: _grade(cases[number], others[number], vectors) for number in part}
        return [graded[number] for number in range(len(cases))]


def _grade(case: Example, other: str, embedded: dict[str, Embedded]) -> ScoredExample:
    matches = [match(embedded[summary], embedded[other]) for summary in case.summaries]
    return ScoredExample({f"bertscore_{m}": tuple(getattr(x, m) for x in matches) for m in Match._fields})


def match(summary: Embedded, other: Embedded) -> Match:
    """Greedy matching of two texts."""
    if not summary.weights.any() or not other.weights.any():
        return Match(0.0, 0.0, 0.0)
    cosines = summary.vectors @ other.vectors.T
    precision = float((cosines.max(axis=1) * summary.weights).sum() / summary.weights.sum())
    recall = float((cosines.max(axis=0) * other.weights).sum() / other.weights.sum())
    total = precision + recall
    return Match(precision, recall, 2 * precision * recall / total if total else 0.0)
