"""The nouns of scoring: a document with its summaries, what was measured, and the sentences that show it."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from eval_harness.errors import UserError


@dataclass(frozen=True)
class Example:
    """One document and one or more summaries of it; `name` is what messages call it."""

    document: str
    summaries: tuple[str, ...]
    reference: str | None = None
    name: str = ""


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
    meta-evaluation look at first; the others describe.
    """

    name: str
    per_summary: bool = True
    low: float = 0.0
    higher_is_better: bool = True
    threshold: float | None = None
    main: bool = True


@dataclass(frozen=True)
class ScoredExample:
    """A case's numbers.

    `values` maps a metric to one number per summary, or to a single one where the metric is of the set;
    `evidence` holds per summary its worst sentences first, empty where a scorer has none.
    """

    values: dict[str, tuple[float, ...]]
    evidence: tuple[tuple[Evidence, ...], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        proof = [[list(found) for found in own] for own in self.evidence]
        return {"values": {name: list(row) for name, row in self.values.items()}, "evidence": proof}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ScoredExample":
        """Invert `to_json`."""
        values = {name: tuple(row) for name, row in data["values"].items()}
        return cls(values, tuple(tuple(Evidence(*found) for found in own) for own in data["evidence"]))


@dataclass(frozen=True)
class Device:
    """Where and how the models of scorers run.

    `batch_tokens` bounds rows x longest row of a batch; `answers` is the file that keeps a judge's answers.
    """

    device: str = "auto"
    dtype: str = "float32"
    batch_tokens: int = 8192
    answers: Path | None = None


@dataclass(frozen=True)
class Scorer(ABC):
    """A registered scorer: its fields are its options, its docstring's first line describes it."""

    name: ClassVar[str] = ""
    metrics: ClassVar[tuple[Metric, ...]] = ()
    least_samples: ClassVar[int] = 1
    run_on: Device = field(default=Device(), kw_only=True)

    def check(self) -> None:  # noqa: B027 - most scorers have nothing to check
        """Raise UserError for anything that would fail later: an option, a package, a model not at hand."""

    def models(self) -> dict[str, str]:
        """Content hashes of the models used: what, besides the options, makes two scores comparable."""
        return {}

    def cost(self, cases: Sequence[Example]) -> str:
        """What scoring will take, in words; empty where it takes no model."""
        return ""

    def wants_reference(self) -> bool:
        """Whether every case needs a reference."""
        return False

    @abstractmethod
    def score(self, cases: Sequence[Example]) -> list[ScoredExample]:
        """Score checked cases, in their order."""

    def options(self) -> dict[str, object]:
        """The options as given, without where it runs."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "run_on"}


def checked_cases(scorer: Scorer, cases: Sequence[Example]) -> Sequence[Example]:
    """Return the cases.

    Raises:
      UserError: none, an empty document, no summary, too few summaries for the scorer, a missing reference.
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
    return cases


def worst_first(found: Sequence[Evidence], most: int = 3) -> tuple[Evidence, ...]:
    """The sentences with the lowest scores, in the order of the summary where equal."""
    return tuple(sorted(found, key=lambda e: e.score)[:most])
