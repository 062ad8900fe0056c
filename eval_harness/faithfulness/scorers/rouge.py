"""ROUGE by the rouge-score package."""

import importlib.util
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Against, Example, Metric, ScoredExample, Scorer
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.faithfulness.text.sentences import split_sentences
from eval_harness.faithfulness.text.words import runs, share_of_letters

_NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class _Words:
    """A tokenizer for rouge-score: words of every script, the English ones stemmed as it stems them."""

    def __init__(self, stem: bool) -> None:
        """Take the package's stemmer where it is asked for."""
        from nltk.stem import porter

        self._stemmer = porter.PorterStemmer() if stem else None

    def tokenize(self, text: str) -> list[str]:
        """The tokens."""
        return [
            self._stemmer.stem(word) if self._stemmer and word.isascii() and len(word) > 3 else word
            for word in runs(text)
        ]


@register_scorer("rouge")
class Rouge(Scorer):
    """ROUGE-1, -2, -L and -Lsum: words shared with the reference (or the document).

    `against` is reference or document; `measure` fmeasure, precision (the share of the summary that the other
    text holds) or recall. For ROUGE-Lsum both texts are split into sentences. `tokenizer` ascii is the
    package's own, which knows the letters a to z and refuses other scripts; unicode reads all of them, and
    English as the package does.
    """

    metrics: ClassVar[tuple[Metric, ...]] = tuple(Metric(name) for name in _NAMES)
    against: Against = "reference"
    measure: Literal["fmeasure", "precision", "recall"] = "fmeasure"
    stem: bool = True
    tokenizer: Literal["ascii", "unicode"] = "ascii"

    def wants_reference(self) -> bool:
        """Whether every case needs a reference."""
        return self.against == "reference"

    def check(self) -> None:
        """Check the package."""
        if importlib.util.find_spec("rouge_score") is None:
            raise UserError(
                "a package is missing", got="no rouge_score", remedy='pip install "sparsepo[eval]"'
            )

    def check_case(self, case: Example) -> None:
        """Refuse a text that the package's tokenizer mostly drops: its score would be 0 whatever it says."""
        other = case.other_text(self.against)
        if self.tokenizer == "ascii" and share_of_letters(other, ascii_only=True) < 0.5:
            raise UserError(
                f"scorer rouge reads the letters a to z only: {case.name or 'a document'}",
                got=repr(other[:40]),
                expected="a text in English or the like",
                remedy="--scorer-option rouge.tokenizer=unicode",
            )

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every summary."""
        from rouge_score.rouge_scorer import RougeScorer

        for case in cases:
            self.check_case(case)
        words = _Words(self.stem) if self.tokenizer == "unicode" else None
        scorer = RougeScorer(list(_NAMES), use_stemmer=self.stem, tokenizer=words)
        return [self._case(scorer, case) for case in cases]

    def _case(self, scorer: Any, case: Example) -> ScoredExample:
        other = "\n".join(split_sentences(case.other_text(self.against)))
        measured = [scorer.score(other, "\n".join(split_sentences(summary))) for summary in case.summaries]
        return ScoredExample(
            {name: tuple(float(getattr(f[name], self.measure)) for f in measured) for name in _NAMES}
        )
