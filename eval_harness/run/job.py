"""What the runner hands to a suite and what it gets back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from eval_harness.models.reference import ModelRef
from eval_harness.models.settings import Settings
from eval_harness.reasoning.data import DataMapping
from eval_harness.types import ItemRecord, SuiteResult

CANDIDATE, BASELINE = "candidate", "baseline"


@dataclass(frozen=True)
class Job:
    """One model on one preset.

    `cache` None: nothing is kept for a later run; `work` holds prepared data. `opponent` is the other
    model of the run, None where there is none. `options` are the suite's own, from the command line.
    """

    preset: Any
    ref: ModelRef
    settings: Settings
    work: Path
    cache: Path | None
    mapping: DataMapping | None = None
    punkt_standin: bool = False
    role: str = CANDIDATE
    opponent: ModelRef | None = None
    options: dict[str, Any] = field(default_factory=dict)


class Plan(Protocol):
    """A job that passed preflight: no model loaded, nothing generated. Equal keys mean equal results."""

    key: str

    def line(self) -> str:
        """One line for `validate`."""

    def execute(self) -> tuple[SuiteResult, list[ItemRecord]] | None:
        """Measure; None on ranks other than 0."""

    def leave(self, folder: Path) -> None:
        """Write what belongs beside the result."""
