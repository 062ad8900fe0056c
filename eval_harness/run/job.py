"""What the runner hands to a suite and what it gets back."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.reference import ModelRef
from eval_harness.models.settings import Settings
from eval_harness.run.preset import Preset
from eval_harness.types import ASKED, ItemRecord, ModelIdentity, Score

Role = Literal["candidate", "baseline"]
CANDIDATE: Role = "candidate"
BASELINE: Role = "baseline"

P = TypeVar("P", bound=Preset)
O = TypeVar("O")  # noqa: E741 - options


@dataclass(frozen=True)
class Job(Generic[P, O]):
    """One model on one preset.

    `options` are the suite's own, of its own type. `cache` None: nothing is kept for a later run; `work`
    holds prepared data. `opponent` is the other model of the run, None where there is none.
    """

    preset: P
    options: O
    ref: ModelRef
    settings: Settings
    work: Path
    cache: Path | None
    role: Role = CANDIDATE
    opponent: ModelRef | None = None

    @contextmanager
    def store(self) -> Iterator[AnswerStore]:
        """The answers on disk, closed at the end."""
        store = AnswerStore((self.cache or self.work) / "answers.sqlite")
        try:
            yield store
        finally:
            store.close()


@dataclass(frozen=True)
class Measured:
    """What a suite found; the runner adds what all runs have in common (see SuiteResult for the fields).

    `settings` and `seeds` are the suite's own, over the job's. A run that is not `complete` (some answers
    failed) is not taken for finished: the same command asks for them again.
    """

    scores: tuple[Score, ...]
    items: list[ItemRecord]
    counts: dict[str, int]
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    comparable: bool = True
    facts: tuple[tuple[str, str], ...] = ()
    asked: tuple[str, ...] = ASKED
    max_unjudged: float | None = None
    undecidable: str = ""
    complete: bool = True


class Plan(Protocol):
    """A job that passed preflight: no model loaded, nothing generated. Equal keys mean equal results."""

    @property
    def job(self) -> Job[Any, Any]:
        """What was asked for, its settings resolved."""

    @property
    def key(self) -> str:
        """Content key of the run: model, prompts, settings."""

    @property
    def model(self) -> ModelIdentity:
        """Whose answers are measured."""

    def line(self) -> str:
        """One line for `validate`."""

    def measure(self, store: AnswerStore) -> Measured | None:
        """Ask the model for what the store lacks, and score; None on ranks other than 0."""

    def leave(self, folder: Path) -> None:
        """Write what belongs beside the result, where anything does."""


@runtime_checkable
class Divisible(Plan, Protocol):
    """A plan whose documents are known before they are measured, and which can be carried out in parts."""

    def documents(self) -> list[tuple[str, int, str]]:
        """Task, number and cluster of every document."""

    def part(self, chosen: Mapping[str, Sequence[int]]) -> Plan:
        """The plan for these documents of these tasks, asked as in the whole: answers share the store."""
