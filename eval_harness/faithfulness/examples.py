"""The nouns of scoring: a document with its summaries, what was measured, and the sentences that show it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from eval_harness.errors import UserError
from eval_harness.faithfulness.text.sentences import split_sentences
from eval_harness.faithfulness.text.words import nearest, says_nothing
from eval_harness.files.configs import Config

Dtype = Literal["float32", "bfloat16", "float16"]
Against = Literal["reference", "document"]


@dataclass(frozen=True)
class Example:
    """One document and one or more summaries of it; `name` is what messages call it."""

    document: str
    summaries: tuple[str, ...]
    reference: str | None = None
    name: str = ""

    def other_text(self, against: Against) -> str:
        """The text that a summary is compared with, by the option `against`."""
        if against == "document":
            return self.document
        assert self.reference is not None  # checked_cases
        return self.reference


class Evidence(NamedTuple):
    """A summary sentence, the document sentence nearest to it, and its score (larger is better)."""

    document: str
    summary: str
    score: float


@dataclass(frozen=True)
class Metric:
    """One number that a scorer gives.

    `per_summary` False: one number for all summaries of a document. Values lie in [`low`, 1]. `threshold` is
    the published or natural border of "faithful", None where there is none. `main` marks what gates and
    meta-evaluation look at first; the others describe. `judged`: a judge gives it, or gives none.
    """

    name: str
    per_summary: bool = True
    low: float = 0.0
    higher_is_better: bool = True
    threshold: float | None = None
    main: bool = True
    judged: bool = False


@dataclass(frozen=True)
class ScoredExample:
    """A case's numbers.

    `values` maps a metric to one number per summary, or to a single one where the metric is of the set; None
    where no judge has given one. `evidence` holds per summary its worst sentences first, empty where a scorer
    has none. `failed` counts the questions that got no answer, which are asked again.
    """

    values: dict[str, tuple[float | None, ...]]
    evidence: tuple[tuple[Evidence, ...], ...] = ()
    failed: int = 0


@dataclass(frozen=True)
class Device:
    """Where and how the models of scorers run.

    `batch_tokens` bounds rows x longest row of a batch; `answers` is the file that keeps a judge's answers.
    """

    device: str = "auto"
    dtype: Dtype = "float32"
    batch_tokens: int = 8192
    answers: Path | None = None


class Scorer(Config, ABC):
    """A registered scorer: its fields are its options, its docstring's first line describes it.

    `paths` are the options that only say where something lies: its content is among `models()`.
    """

    name: ClassVar[str] = ""
    metrics: ClassVar[tuple[Metric, ...]] = ()
    least_samples: ClassVar[int] = 1
    paths: ClassVar[frozenset[str]] = frozenset()
    run_on: Device = Device()

    def check(self) -> None:
        """Raise UserError for anything that would fail later: an option, a package, a model not at hand."""

    def check_case(self, case: Example) -> None:
        """Raise UserError for a document or a reference that the scorer cannot read."""

    def models(self) -> dict[str, str]:
        """Content hashes of the models used: what, besides the options, makes two scores comparable."""
        return {}

    def cost(self, cases: Sequence[Example]) -> str:
        """What scoring will take, in words; empty where it takes no model."""
        return ""

    def wants_reference(self) -> bool:
        """Whether every case needs a reference."""
        return False

    def unjudged_limit(self) -> float | None:
        """Share of its numbers that may be missing in a comparison, None where every summary gets one."""
        return None

    def control_questions(self) -> int | None:
        """How many summaries are also rated against another document, None where no judge is to be tested."""
        return None

    @abstractmethod
    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score checked cases, in their order."""

    def options(self) -> dict[str, object]:
        """The options as given, without where it runs."""
        return self.model_dump(exclude={"run_on"})


def checked_cases(scorer: Scorer, cases: Sequence[Example]) -> Sequence[Example]:
    """Return the cases.

    Raises:
      UserError: none, an empty document, no summary, too few summaries for the scorer, a missing reference, a
        text that the scorer cannot read.
    """
    if not cases:
        raise UserError(f"scorer {scorer.name}", got="no documents", expected="at least one")
    for number, case in enumerate(cases):
        where = case.name or f"document {number}"
        if not case.document.strip():
            raise UserError(
                f"{where}: the document is empty",
                got=repr(case.document[:20]),
                expected="a text to be true to",
            )
        if len(case.summaries) < scorer.least_samples:
            raise UserError(
                f"scorer {scorer.name} compares the samples of a document with each other",
                got=f"{len(case.summaries)} for {where}",
                expected=f"at least {scorer.least_samples}",
                remedy="draw more samples per document, or drop this scorer",
            )
        if scorer.wants_reference() and case.reference is None:
            raise UserError(
                f"scorer {scorer.name} needs a reference summary",
                got=f"none for {where}",
                expected="a field `reference`",
                remedy="add references, or score against the document: option against=document",
            )
        scorer.check_case(case)
    return cases


def worst_first(evidence: Sequence[Evidence], most: int = 3) -> tuple[Evidence, ...]:
    """The sentences with the lowest scores, in the order of the summary where equal."""
    return tuple(sorted(evidence, key=lambda e: e.score)[:most])


def by_case(
    cases: Sequence[Example], metric: str, values: Sequence[float], evidence: Sequence[tuple[Evidence, ...]]
) -> list[ScoredExample]:
    """Flat lists of numbers and evidence, one per summary and case after case, dealt back to their cases."""
    scored, start = [], 0
    for case in cases:
        end = start + len(case.summaries)
        scored.append(ScoredExample({metric: tuple(values[start:end])}, tuple(evidence[start:end])))
        start = end
    return scored


def supported_share(
    case: Example, metric: str, parts: Callable[[list[str]], Sequence[Sequence[bool]]]
) -> ScoredExample:
    """Score every summary of a case.

    Args:
      case: document and summaries.
      metric: the metric's name.
      parts: a summary's sentences -> per sentence, for each of its parts, whether the document supports it.

    Returns:
      Supported parts over parts per summary: 1 without any part, 0 for a summary that shares no word of
      content with the document, so an empty one too: it says nothing that could be true.
    """
    document = split_sentences(case.document)
    values, evidence = [], []
    for summary in case.summaries:
        sentences = split_sentences(summary)
        supported = parts(sentences)
        total, good = sum(map(len, supported)), sum(map(sum, supported))
        values.append(0.0 if says_nothing(summary, case.document) else good / total if total else 1.0)
        bad = [
            Evidence(nearest(sentence, document), sentence, sum(of_sentence) / len(of_sentence))
            for sentence, of_sentence in zip(sentences, supported, strict=True)
            if of_sentence and not all(of_sentence)
        ]
        evidence.append(worst_first(bad))
    return ScoredExample({metric: tuple(values)}, tuple(evidence))
