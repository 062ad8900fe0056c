"""What a gate decided and on what grounds: frozen dataclasses, stored as JSON with a schema version."""

from dataclasses import dataclass, field
from typing import Any, Literal

from eval_harness.stats.paired import Paired
from eval_harness.types import STRICT_KEYS, parse, plain

SCHEMA_VERSION = 1
Outcome = Literal["REGRESSED", "KEPT", "UNDECIDED"]
REGRESSED: Outcome = "REGRESSED"
KEPT: Outcome = "KEPT"
UNDECIDED: Outcome = "UNDECIDED"
EXIT_CODES: dict[Outcome, int] = {KEPT: 0, REGRESSED: 1, UNDECIDED: 3}
Mapped = Literal["exit", "pass", "fail"]  # what UNDECIDED means to the caller
UNDECIDED_CODES: dict[Mapped, int] = {"exit": 3, "pass": 0, "fail": 1}
Change = Literal["lost", "gained"]


@dataclass(frozen=True)
class Verdict:
    """One gate's verdict.

    `paired` holds means, difference and interval; its observations are the documents, or for list metrics
    (IFEval's instructions) their entries. `p_holm` is its p of a drop, adjusted over all gates of the file.
    `items` counts documents, `planned` those the gate was designed for. `needed` is the number of documents
    at which an UNDECIDED gate would decide, None where it has decided or no number would.
    """

    __pydantic_config__ = STRICT_KEYS
    name: str
    tasks: tuple[str, ...]
    metric: str
    margin: float
    blocking: bool
    verdict: Outcome
    items: int
    planned: int | None
    paired: Paired
    p_holm: float
    needed: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flip:
    """One document that got worse (`lost`) or better (`gained`), as both models answered it.

    The evidence of either side is [document sentence, summary sentence, score], worst first, of the gate's
    metric. `orders` are a judge's shares for the candidate, with its text first and second, None where there
    is no judgement; empty without a judge.
    """

    __pydantic_config__ = STRICT_KEYS
    gate: str
    task: str
    doc_id: int
    change: Change
    prompt: str
    target: str
    choices: tuple[str, ...]
    baseline_outputs: list[Any]
    candidate_outputs: list[Any]
    baseline_value: float
    candidate_value: float
    baseline_evidence: tuple[list[Any], ...] = ()
    candidate_evidence: tuple[list[Any], ...] = ()
    orders: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class RunId:
    """Which run was compared: its model's label and weights (sha256), its content key, when it was made."""

    __pydantic_config__ = STRICT_KEYS
    label: str
    weights: str
    key: str
    started: str


@dataclass(frozen=True)
class Decision:
    """The whole decision: REGRESSED if a blocking gate is, else UNDECIDED if one is, else KEPT.

    `undecided` is what UNDECIDED means to the caller: `exit` (code 3), `pass` (0) or `fail` (1). `flips` is a
    selection; the counts of lost and gained observations in each verdict are complete. `facts` are the
    candidate's, name and text.
    """

    __pydantic_config__ = STRICT_KEYS
    verdict: Outcome
    alpha: float
    undecided: Mapped
    suite: str
    preset: str
    preset_version: int
    candidate: RunId
    baseline: RunId
    gates: tuple[Verdict, ...]
    flips: tuple[Flip, ...] = ()
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    facts: tuple[tuple[str, str], ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def exit_code(self) -> int:
        """0 kept, 1 regressed, 3 undecided (or what `undecided` maps it to)."""
        return UNDECIDED_CODES[self.undecided] if self.verdict == UNDECIDED else EXIT_CODES[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object, the exit code in it."""
        return {**plain(self), "exit_code": self.exit_code}


def parse_decision(data: Any) -> Decision:
    """Invert `Decision.to_json`.

    Raises:
      ValueError: another schema version, unknown or missing keys.
    """
    if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
        version = data.get("schema_version") if isinstance(data, dict) else None
        raise ValueError(f"schema_version: got {version}, expected {SCHEMA_VERSION}")
    return parse(Decision, {key: value for key, value in data.items() if key != "exit_code"})


def overall(gates: tuple[Verdict, ...]) -> Outcome:
    """REGRESSED if any blocking gate is, else UNDECIDED if any is, else KEPT."""
    blocking = {gate.verdict for gate in gates if gate.blocking}
    worst: tuple[Outcome, ...] = (REGRESSED, UNDECIDED)
    return next((verdict for verdict in worst if verdict in blocking), KEPT)
