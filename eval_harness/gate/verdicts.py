"""What a gate decided and on what grounds: frozen, JSON round trip, versioned schema."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from eval_harness.stats.paired import Paired
from eval_harness.types import build

SCHEMA_VERSION = 1
REGRESSED, KEPT, UNDECIDED = "REGRESSED", "KEPT", "UNDECIDED"
EXIT_CODES = {KEPT: 0, REGRESSED: 1, UNDECIDED: 3}
UNDECIDED_CODES = {"exit": 3, "pass": 0, "fail": 1}


@dataclass(frozen=True)
class Verdict:
    """One gate's verdict.

    `paired` holds means, difference and interval; its observations are the documents, or for list metrics
    (IFEval's instructions) their entries. `p_holm` is its p of a drop, adjusted over all gates of the file.
    `items` counts documents, `planned` those the gate was designed for. `needed` is the number of documents
    at which an UNDECIDED gate would decide, None where it has decided or no number would.
    """

    name: str
    tasks: tuple[str, ...]
    metric: str
    margin: float
    blocking: bool
    verdict: str
    items: int
    planned: int | None
    paired: Paired
    p_holm: float
    needed: int | None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Verdict":
        """Invert `dataclasses.asdict`."""
        given = {**data, "tasks": tuple(data["tasks"]), "notes": tuple(data["notes"])}
        return build(cls, {**given, "paired": build(Paired, data["paired"])})


@dataclass(frozen=True)
class Flip:
    """One document that got worse (`lost`) or better (`gained`), as both models answered it.

    The evidence of either side is [document sentence, summary sentence, score], worst first, of the gate's
    metric.
    """

    gate: str
    task: str
    doc_id: int
    change: str
    prompt: str
    target: str
    choices: tuple[str, ...]
    baseline_outputs: list[Any]
    candidate_outputs: list[Any]
    baseline_value: float
    candidate_value: float
    baseline_evidence: tuple[list[Any], ...] = ()
    candidate_evidence: tuple[list[Any], ...] = ()

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Flip":
        """Invert `dataclasses.asdict`."""
        lists = ("choices", "baseline_evidence", "candidate_evidence")
        return build(cls, {**data, **{key: tuple(data[key]) for key in lists if key in data}})


@dataclass(frozen=True)
class RunId:
    """Which run was compared: its model's label and weights (sha256), its content key, when it was made."""

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

    verdict: str
    alpha: float
    undecided: str
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
        """Return a JSON-ready object."""
        return {**dataclasses.asdict(self), "exit_code": self.exit_code}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Decision":
        """Invert `to_json`.

        Raises:
          ValueError: another schema version, unknown or missing keys.
        """
        if data.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"schema_version: got {data.get('schema_version')}, expected {SCHEMA_VERSION}")
        given = {key: value for key, value in data.items() if key != "exit_code"}
        try:
            given["candidate"], given["baseline"] = (build(RunId, data[k]) for k in ("candidate", "baseline"))
            given["gates"] = tuple(Verdict.from_json(gate) for gate in data["gates"])
            given["flips"] = tuple(Flip.from_json(flip) for flip in data["flips"])
            given["notes"] = tuple(data["notes"])
            given["facts"] = tuple((name, text) for name, text in data.get("facts", ()))
        except KeyError as error:
            raise ValueError(f"Decision: missing key {error}") from error
        return build(cls, given)


def overall(gates: tuple[Verdict, ...]) -> str:
    """REGRESSED if any blocking gate is, else UNDECIDED if any is, else KEPT."""
    found = {gate.verdict for gate in gates if gate.blocking}
    return next((verdict for verdict in (REGRESSED, UNDECIDED) if verdict in found), KEPT)
