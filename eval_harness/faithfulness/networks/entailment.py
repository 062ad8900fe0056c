"""Entailment of every summary sentence by every document sentence: what SummaC and EDNA start from."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Device, Evidence, Example, Scorer, worst_first
from eval_harness.faithfulness.networks.labels import Labels, read_labels
from eval_harness.faithfulness.networks.loading import find_model, model_hash, read_config
from eval_harness.faithfulness.networks.pairs import PairClassifier, pair_classifier
from eval_harness.faithfulness.text.chunks import cut_long
from eval_harness.faithfulness.text.sentences import split_sentences

LONGEST = 500  # tokens of a pair, as published
SHORTEST = 10  # sentences of at most so many characters are left out, as published
MODEL = "tals/albert-xlarge-vitaminc-mnli"

Texts = tuple[str, str]
Floats = NDArray[np.float64]


class Image(NamedTuple):
    """Probabilities per document sentence and summary sentence, [document sentences, summary sentences].

    `contradiction` is all zero where the model has no such class. Without a sentence on either side the
    image is one zero, as published, and the sentence lists may be empty.
    """

    document: list[str]
    summary: list[str]
    entailment: Floats
    contradiction: Floats


@dataclass(frozen=True)
class Entailment:
    """An NLI model by name, and how texts are cut for it."""

    model: str
    labels: str
    document_sentences: int
    scorer: str
    run_on: Device = field(default=Device())

    def check(self, need_contradiction: bool) -> None:
        """Check model, labels and options; loads only configurations. Raises UserError."""
        if self.document_sentences < 1:
            raise UserError(
                f"scorer {self.scorer}: option document_sentences",
                got=self.document_sentences,
                expected="an integer of at least 1",
            )
        labels = self._labels()
        if need_contradiction and labels.contradiction is None:
            raise UserError(
                f"scorer {self.scorer} needs the probability of contradiction",
                got="a model that only tells entailment from the rest",
                expected="a model with three classes",
                remedy="--scorer-option contradiction=false",
            )

    def hash(self) -> str:
        """Content of the model."""
        return model_hash(find_model(self.model, self.scorer))

    def _labels(self) -> Labels:
        folder = find_model(self.model, self.scorer)
        return read_labels(read_config(folder, self.scorer), self.labels, self.scorer)

    def _classifier(self) -> PairClassifier:
        # The name in messages plays no part in what is loaded: scorers share one model.
        return pair_classifier(find_model(self.model, self.scorer), "nli", self.run_on)

    def images(self, texts: Sequence[Texts]) -> list[Image]:
        """Images of (document, summary) pairs, in their order."""
        classifier, labels = self._classifier(), self._labels()
        longest = min(LONGEST, classifier.longest)

        @functools.cache
        def sentences(text: str) -> tuple[str, ...]:
            # Half the input for either side, so that a long run without a full stop is read to its end.
            most = max(1, (longest - 4) // 2)
            return tuple(cut_long(kept_sentences(text), most, classifier.length))

        split = [
            (list(sentences(document)[: self.document_sentences]), list(sentences(summary)))
            for document, summary in texts
        ]
        pairs = [(d, s) for document, summary in split for d in document for s in summary]
        chances = classifier.probabilities(pairs, longest, f"{self.scorer}: sentence pairs")
        images, start = [], 0
        for document, summary in split:
            size = len(document) * len(summary)
            images.append(_image(document, summary, chances[start : start + size], labels))
            start += size
        return images


class EntailmentScorer(Scorer):
    """Options and checks of the scorers that start from an NLI model."""

    paths: ClassVar[frozenset[str]] = frozenset({"model"})
    model: str = MODEL
    labels: str = ""
    document_sentences: int = 100

    def entailment_model(self) -> Entailment:
        """The NLI model that the options name."""
        return Entailment(self.model, self.labels, self.document_sentences, self.name, self.run_on)

    def check(self) -> None:
        """Check model and labels."""
        self.entailment_model().check(need_contradiction=False)

    def models(self) -> dict[str, str]:
        """Hash of the model."""
        return {"model": self.entailment_model().hash()}

    def cost(self, cases: Sequence[Example]) -> str:
        """Number of sentence pairs."""
        return count_pairs(document_pairs(cases), self.document_sentences, self.model)


def _image(document: list[str], summary: list[str], chances: Floats, labels: Labels) -> Image:
    if not len(chances):
        return Image(document, summary, np.zeros((1, 1)), np.zeros((1, 1)))
    shape = (len(document), len(summary))
    against = np.zeros(len(chances)) if labels.contradiction is None else chances[:, labels.contradiction]
    return Image(document, summary, chances[:, labels.entailment].reshape(shape), against.reshape(shape))


def kept_sentences(text: str) -> list[str]:
    """Sentences of more than ten characters."""
    return [sentence for sentence in split_sentences(text) if len(sentence) > SHORTEST]


def document_pairs(cases: Sequence[Example]) -> list[Texts]:
    """(document, summary) of every summary of every case."""
    return [(case.document, summary) for case in cases for summary in case.summaries]


def count_pairs(texts: Sequence[Texts], document_sentences: int, model: str) -> str:
    """What scoring takes, before any model is loaded."""
    count = functools.cache(lambda text: kept_sentences(text))
    distinct = {
        (d, s)
        for document, summary in set(texts)
        for d in count(document)[:document_sentences]
        for s in count(summary)
    }
    cut = sum(len(count(document)) > document_sentences for document in {d for d, _ in texts})
    note = f"; {cut} documents cut to {document_sentences} sentences" if cut else ""
    return f"{len(distinct)} sentence pairs through {model}{note}"


def proof(image: Image, scores: Sequence[float]) -> tuple[Evidence, ...]:
    """Worst summary sentences, each beside the document sentence that entails it most."""
    if not image.document or not image.summary:
        return ()
    best = np.argmax(image.entailment, axis=0)
    return worst_first(
        [
            Evidence(image.document[best[j]], sentence, float(score))
            for j, (sentence, score) in enumerate(zip(image.summary, scores))
        ]
    )
