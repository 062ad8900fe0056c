"""The nouns of the harness: frozen dataclasses whose fields are the file format, written and read as JSON."""

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

SCHEMA_VERSION = 2
# Settings of every suite that change what is asked; the others may move the last bits of a logit.
ASKED = ("generation", "chat_template", "multiturn", "limit_context", "allow_truncation")
# Stands for an answer that did not come; no run that holds it is compared. (lm-eval's own stand-in has a
# variable of this name, whose value is an empty text.)
NO_ANSWER = "LMEVAL_MODEL_NONE_ANSWER_PLACEHOLDER"
STRICT_KEYS = ConfigDict(extra="forbid")

T = TypeVar("T")


@functools.cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def parse(cls: type[T], data: object) -> T:
    """Build a dataclass from a JSON object, the inverse of `dataclasses.asdict`.

    Raises:
      ValueError: an unknown or missing key or a value of another type, named.
    """
    try:
        built: T = _adapter(cls).validate_python(data)  # type: ignore[arg-type]
        return built
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join([cls.__name__, *map(str, first["loc"])])
        raise ValueError(f"{where}: {first['msg']}") from error


@dataclass(frozen=True)
class Score:
    """One metric of one task, or with `is_group` of a group of tasks.

    `value` is in the metric's own unit ([0, 1] for accuracies). `main` marks the metrics that a comparison
    looks at where no gates file names one; the others describe. `normalised` is the leaderboard's 0-100
    scale, clipped at 0 below chance, and None where no normalisation is defined. `stderr` is the standard
    error of the mean over `n` items, None where the suite gives none; `low` and `high` are the ends of a
    two-sided 95 % interval. `metric` carries lm-eval's filter: `exact_match,strict-match`. `judged`: a judge
    gives it, so that entries of items may be None, and one number for everything decides nothing.
    `undecidable` is the reason for which no gate may decide by it against this baseline, empty where it may.
    """

    __pydantic_config__ = STRICT_KEYS
    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool = True
    main: bool = False
    is_group: bool = False
    normalised: float | None = None
    version: str = ""
    shots: int = 0
    comparable: bool = True
    notes: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    judged: bool = False
    undecidable: str = ""

    @property
    def at_floor(self) -> bool:
        """Whether it cannot get worse: at or below chance, or at the worst end of [0, 1]."""
        if self.normalised is not None:
            return self.normalised == 0.0
        return self.value == (0.0 if self.higher_is_better else 1.0)


@dataclass(frozen=True)
class ItemRecord:
    """One document of one task, as answered by one model; two runs are paired on (task, doc_id, prompt_hash).

    `cluster` is equal for items that share a question, story or prompt, across tasks too. `metrics` maps
    `name,filter` to a number or, for IFEval's instructions and for summaries, a list of them; None is what no
    judge has judged. `outputs` are the raw answers: generated texts, or [log-probability in nats, is
    greedy] per choice; `choices` are then the texts scored, in the same order. `evidence` maps a
    metric to the [document sentence, summary sentence, score] that speak most against the answer. `orders`
    are a judge's shares of the win for this answer, with its text first and second; empty without a judge.
    """

    __pydantic_config__ = STRICT_KEYS
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
    orders: list[float | None] = field(default_factory=list)


@dataclass(frozen=True)
class ModelIdentity:
    """What makes two models the same one: content hashes (sha256, hex), never a path or a name.

    For an endpoint the weights are out of reach: `weights` is then the hash of its address and `--model-id`.
    """

    __pydantic_config__ = STRICT_KEYS
    kind: str
    label: str
    weights: str
    tokenizer: str
    chat_template: str | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class SuiteResult:
    """One suite, one model: what was measured, on what, with what.

    `key` is the content key of the whole run: equal keys mean the same model, prompts and settings. `counts`
    holds `items`, `requests`, `reused` (answers read from the store) and `computed` (answers asked of the
    model). `facts` are (name, text) pairs that a report shows beside the gates. `asked` names the settings
    in which two runs must agree to be compared. `max_unjudged` is the share of judgements that may be missing
    before nothing is decided, None where every item must have a value. `undecidable` is the reason for
    which no gate may decide by this run (a judge without information), empty where it may.
    """

    __pydantic_config__ = STRICT_KEYS
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
    facts: tuple[tuple[str, str], ...] = ()
    asked: tuple[str, ...] = ASKED
    max_unjudged: float | None = None
    undecidable: str = ""
    schema_version: int = SCHEMA_VERSION

    def score(self, task: str, metric: str, *, is_group: bool = False) -> Score:
        """Return one score; KeyError names what there is."""
        for score in self.scores:
            if (score.task, score.metric, score.is_group) == (task, metric, is_group):
                return score
        raise KeyError(f"{task} {metric}: not among {[(s.task, s.metric) for s in self.scores]}")


def plain(result: Any) -> dict[str, Any]:
    """A dataclass as a JSON-ready object, the inverse of `parse`."""
    return dataclasses.asdict(result)
