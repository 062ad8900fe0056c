"""Self-BLEU by sacrebleu: how alike the samples of one document are."""

import importlib.util
from collections.abc import Sequence
from typing import ClassVar, Literal

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Example, Metric, ScoredExample, Scorer
from eval_harness.faithfulness.registry import register_scorer
from eval_harness.faithfulness.text.words import share_of_letters


@register_scorer("self-bleu")
class SelfBleu(Scorer):
    """Self-BLEU: mean sentence BLEU of each sample against the others, in [0, 1]; low means diverse.

    Equation: mean_i BLEU(s_i | s_j, j != i), BLEU with effective order. `tokenizer` is sacrebleu's; its 13a
    splits at spaces and refuses scripts without them.
    Source: Zhu et al. 2018, arXiv 1802.01886.
    """

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("self_bleu", per_summary=False, higher_is_better=False, main=False),
    )
    least_samples: ClassVar[int] = 2
    tokenizer: Literal["13a", "intl", "zh", "char"] = "13a"

    def check(self) -> None:
        """Check the package."""
        if importlib.util.find_spec("sacrebleu") is None:
            raise UserError("a package is missing", got="no sacrebleu", remedy='pip install "sparsepo[eval]"')

    def check_case(self, case: Example) -> None:
        """Refuse a script without spaces where the tokenizer splits at them."""
        if self.tokenizer in ("13a", "intl") and share_of_letters(case.document, ascii_only=False) < 0.5:
            raise UserError(
                f"scorer self-bleu splits at spaces: {case.name or 'a document'}",
                got=repr(case.document[:40]),
                expected="a script with spaces between words",
                remedy="--scorer-option self-bleu.tokenizer=char",
            )

    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score every document's samples."""
        from sacrebleu.metrics.bleu import BLEU

        bleu = BLEU(effective_order=True, tokenize=self.tokenizer)
        scored = []
        for case in cases:
            texts = case.summaries
            others = [[*texts[:i], *texts[i + 1 :]] for i in range(len(texts))]
            percents = [bleu.sentence_score(*pair).score for pair in zip(texts, others, strict=True)]
            scored.append(ScoredExample({"self_bleu": (min(1.0, sum(percents) / len(percents) / 100.0),)}))
        return scored
