"""A fact check of every summary sentence, MiniCheck's way."""

from collections.abc import Sequence
from typing import ClassVar

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Evidence, Example, Metric, ScoredExample, Scorer, worst_first
from eval_harness.faithfulness.networks.checker import Checker, checker, supported_class
from eval_harness.faithfulness.networks.loading import find_model, model_hash, read_config
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.faithfulness.text.chunks import chunk_document, cut_long
from eval_harness.faithfulness.text.sentences import split_sentences
from eval_harness.faithfulness.text.words import nearest

_WORDS, _TOKENS = 500, 400  # of a chunk, as published for T5 and for classifiers
_SPARE = 8  # special tokens and the prefix


@register_scorer("minicheck")
class MiniCheck(Scorer):
    """Fact check: probability that the document supports the summary's weakest sentence.

    Every summary sentence is a claim; a claim's support is the largest over the document's chunks;
    `minicheck` is the least of all claims, `minicheck_mean` their mean, both 0 for an empty summary. The
    model is a sequence classifier or a Flan-T5-style checker that answers 0 or 1. `chunk` 0: 500 words for
    T5, 400 tokens else, less where the model's input is shorter.
    Source: Tang et al. 2024, arXiv 2404.10774 (PyPI's `minicheck` is another program).
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("minicheck", threshold=0.5),
        Metric("minicheck_mean", threshold=0.5, main=False),
    )
    paths: ClassVar[frozenset[str]] = frozenset({"model"})
    model: str = "lytang/MiniCheck-Flan-T5-Large"
    labels: str = ""
    chunk: int = 0

    def check(self) -> None:
        """Check option, model and labels."""
        if self.chunk < 0:
            raise UserError(
                f"scorer {self.name}: option chunk", got=self.chunk, expected="0 or a positive number"
            )
        config = read_config(find_model(self.model, self.name), self.name)
        if not config.is_encoder_decoder or "t5" not in config.model_type:
            supported_class(config, self.labels, self.name)

    def models(self) -> dict[str, str]:
        """Hash of the model."""
        return {"model": model_hash(find_model(self.model, self.name))}

    def cost(self, cases: Sequence[Example]) -> str:
        """Number of claims and words, before any tokenizer is loaded."""
        size = self.chunk or _TOKENS
        count = sum(
            len(split_sentences(s)) * (1 + len(case.document.split()) // size)
            for case in cases
            for s in set(case.summaries)
        )
        return f"about {count} claims on chunks through {self.model}"

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every summary."""
        machine = checker(find_model(self.model, self.name), self.labels, self.name, self.run_on)
        asked = [(self._claims(case, machine), self._chunks(case, machine)) for case in cases]
        pairs = [
            (c, claim)
            for claims, chunks in asked
            for of_summary in claims
            for claim in of_summary
            for c in chunks
        ]
        support = machine.support(pairs)
        return [_grade(claims, chunks, support) for claims, chunks in asked]

    def _claims(self, case: Example, machine: Checker) -> list[list[str]]:
        most = max(1, machine.longest // 2)
        return [cut_long(split_sentences(summary), most, machine.length) for summary in case.summaries]

    def _chunks(self, case: Example, machine: Checker) -> list[str]:
        if machine.counts_words:
            return chunk_document(case.document, self.chunk or _WORDS, lambda text: len(text.split()))
        longest_claim = max(
            (machine.length(c) for of_summary in self._claims(case, machine) for c in of_summary), default=0
        )
        most = min(self.chunk or _TOKENS, max(1, machine.longest - longest_claim - _SPARE))
        return chunk_document(case.document, most, machine.length)


def _grade(
    claims: list[list[str]], chunks: list[str], support: dict[tuple[str, str], float]
) -> ScoredExample:
    least, mean, evidence = [], [], []
    for of_summary in claims:
        checked = []
        for claim in of_summary:
            best = max(chunks, key=lambda chunk: support[chunk, claim])
            checked.append(Evidence(nearest(claim, split_sentences(best)), claim, support[best, claim]))
        scores = [e.score for e in checked]
        least.append(min(scores, default=0.0))
        mean.append(sum(scores) / len(scores) if scores else 0.0)
        evidence.append(worst_first(checked))
    return ScoredExample({"minicheck": tuple(least), "minicheck_mean": tuple(mean)}, tuple(evidence))
