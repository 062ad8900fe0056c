"""The registered settings; docs/study-real-plan.md says why. A test compares both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """A loss with options; of those in ``tried`` validation prompts choose one."""

    loss: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tried: tuple[Mapping[str, Any], ...] = ({},)


ANCHORS = ({"anchor": 1.0}, {"anchor": 4.0})
METHODS = {
    "dpo": Method("dpo"),
    "dpo + anchor": Method("dpo", tried=ANCHORS),
    "tdpo2": Method("tdpo2"),
    "sparsepo, paper": Method("sparsepo", {"preset": "paper"}),
    "sparsepo": Method("sparsepo", {"anchor": 0.0}),
    "sparsepo + anchor": Method("sparsepo", tried=ANCHORS),
}
BASELINE = "dpo"
# Every other method against the baseline, and the anchored ones against each other.
COMPARED = (
    *((name, BASELINE) for name in METHODS if name != BASELINE),
    ("sparsepo + anchor", "dpo + anchor"),
)
BETAS = (0.05, 0.2)
DTYPE = "bfloat16"  # of training, sampling and capability
TUNING_SEED, TUNED_AT, RATES = 100, 0.2, (5e-6, 2e-5)
WARMUP = 0.1


@dataclass(frozen=True)
class Scale:
    """Sizes of a domain.

    Attributes:
      prompt, response: longest, in tokens.
      pairs, batch, stops: of a run; the last stop is its end.
      validation, test: prompts; draws: responses to each, per seed.
      seeds: of runs; budgets: nats, the last one the primary.
      methods, betas: compared.
      pool: training prompts (sentiment), or posts (summaries).
      judged: texts or pairs that the reward head trains on at most.
    """

    prompt: int
    response: int
    pairs: int
    stops: tuple[int, ...]
    validation: int
    test: int
    draws: int
    budgets: tuple[float, ...]
    pool: int
    judged: int = 3000
    batch: int = 12
    micro: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = tuple(METHODS)
    betas: tuple[float, ...] = BETAS


FULL = {
    "sentiment": Scale(
        8, 24, 192, (8, 16), validation=96, test=360, draws=1, budgets=(0.5, 1.0, 2.0), pool=700
    ),
    "summaries": Scale(256, 48, 120, (5, 10), validation=40, test=80, draws=2, budgets=(0.5, 2.0), pool=60),
}
SMALL = {
    "sentiment": Scale(
        8, 12, 24, (2, 4), validation=16, test=24, draws=1, budgets=(0.5, 2.0), pool=40, judged=200, batch=6,
        micro=3, seeds=(0, 1), methods=("dpo", "sparsepo"), betas=(0.05, 0.2),
    ),
    "summaries": Scale(
        192, 40, 12, (1, 2), validation=4, test=6, draws=2, budgets=(0.5, 2.0), pool=8, judged=60, batch=6,
        micro=3, seeds=(0, 1), methods=("dpo", "sparsepo"), betas=(0.05, 0.2),
    ),
}  # fmt: skip
SMOKE = {
    "sentiment": Scale(
        4, 6, 8, (1, 2), validation=4, test=5, draws=1, budgets=(0.5, 2.0), pool=12, judged=20, batch=4,
        micro=2, seeds=(0,), methods=("dpo", "sparsepo"), betas=(0.2,),
    ),
    "summaries": Scale(
        10**6, 40, 8, (1, 2), validation=2, test=3, draws=2, budgets=(0.5, 2.0), pool=6, judged=20, batch=4,
        micro=2, seeds=(0,), methods=("dpo", "sparsepo"), betas=(0.2,),
    ),
}  # fmt: skip
SCALES = {"full": FULL, "small": SMALL, "smoke": SMOKE}


@dataclass(frozen=True)
class Task:
    """A task of the capability part: chance, assumed discordance, margin, items."""

    chance: float
    discordance: float
    margin: float
    items: int


TASKS = {
    "hellaswag": Task(0.25, 0.06, 0.025, 700),
    "mmlu": Task(0.25, 0.06, 0.02, 1665),
    "arc_challenge": Task(0.25, 0.06, 0.03, 800),
    "ifeval": Task(0.0, 0.15, 0.06, 391),
}
