"""The nouns of the harness: frozen, JSON round trip, versioned schema."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

SCHEMA_VERSION = 1

T = TypeVar("T")


def build(cls: type[T], data: dict[str, Any]) -> T:
    """Build a dataclass from a JSON object.

    Raises:
      ValueError: an unknown or missing key, named.
    """
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(data) - known):
        raise ValueError(f"{cls.__name__}: unknown keys {unknown}, known {sorted(known)}")
    try:
        return cls(**data)
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}") from error


@dataclass(frozen=True)
class Score:
    """One metric of one task or group.

    `value` is in the metric's own unit ([0, 1] for accuracies); `normalised` is the leaderboard's 0-100
    scale, clipped at 0 below chance, and None where no normalisation is defined. `stderr` is lm-eval's
    standard error of
    the mean over `n` items, None where lm-eval gives none. `metric` carries the filter:
    `exact_match,strict-match`.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool = True
    normalised: float | None = None
    version: str = ""
    shots: int = 0
    comparable: bool = True
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        return {**dataclasses.asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Score":
        """Invert `to_json`."""
        return build(cls, {**data, "notes": tuple(data.get("notes", ()))})


@dataclass(frozen=True)
class ItemRecord:
    """One document of one task, as answered by one model; two runs are paired on (task, doc_id, prompt_hash).

    `cluster` is equal for items that share a question, story or prompt, across tasks too. `metrics` maps
    `name,filter` to a number or, for IFEval's instruction-level metrics, a list of 0/1. `outputs` are the raw
    answers: generated texts, or [log-probability in nats, is greedy] per choice; `choices` are then the texts
    scored, in the same order. `evidence` maps a metric to the [document sentence, summary sentence,
    score] that speak most against the answer, worst first.
    """

    task: str
    doc_id: int
    prompt_hash: str
    doc_hash: str
    cluster: str
    metrics: dict[str, Any]
    outputs: list[Any]
    target: str
    prompt: str
    choices: list[str] = field(default_factory=list)
    evidence: dict[str, list[Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ItemRecord":
        """Invert `to_json`."""
        return build(cls, data)


@dataclass(frozen=True)
class ModelIdentity:
    """What makes two models the same one: content hashes (sha256, hex), never a path or a name.

    For an endpoint the weights are out of reach: `weights` is then the hash of its address and `--model-id`.
    """

    kind: str
    label: str
    weights: str
    tokenizer: str
    chat_template: str | None = None
    adapter: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ModelIdentity":
        """Invert `to_json`."""
        return build(cls, data)


@dataclass(frozen=True)
class SuiteResult:
    """One suite, one model: what was measured, on what, with what.

    `key` is the content key of the whole run: equal keys mean the same model, prompts and settings. `counts`
    holds `items`, `requests`, `reused` (answers found in the store) and `computed` (answers asked of the
    model).
    """

    suite: str
    preset: str
    preset_version: int
    key: str
    model: ModelIdentity
    scores: tuple[Score, ...]
    settings: dict[str, Any]
    seeds: dict[str, int]
    versions: dict[str, str]
    environment: dict[str, Any]
    counts: dict[str, int]
    comparable: bool
    notes: tuple[str, ...] = ()
    started: str = ""
    seconds: float = 0.0
    schema_version: int = field(default=SCHEMA_VERSION)

    def score(self, task: str, metric: str) -> Score:
        """Return one score; KeyError names what there is."""
        for score in self.scores:
            if (score.task, score.metric) == (task, metric):
                return score
        raise KeyError(f"{task} {metric}: not among {[(s.task, s.metric) for s in self.scores]}")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready object."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain.update(
            model=self.model.to_json(), scores=[s.to_json() for s in self.scores], notes=list(self.notes)
        )
        return plain

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "SuiteResult":
        """Invert `to_json`.

        Raises:
          ValueError: another schema version, unknown or missing keys.
        """
        if data.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"schema_version: got {data.get('schema_version')}, expected {SCHEMA_VERSION}")
        plain = dict(data)
        plain["model"] = ModelIdentity.from_json(plain.get("model", {}))
        plain["scores"] = tuple(Score.from_json(s) for s in plain.get("scores", ()))
        plain["notes"] = tuple(plain.get("notes", ()))
        return build(cls, plain)
