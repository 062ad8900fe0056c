"""The registered methods, sizes and levels; docs/methods-sentiment-plan.md says why. A test compares both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from study.language import Size

Weights = Literal["none", "guides", "probabilities", "words"]
BETAS = (0.2, 0.8, 3.2)
MEAN_BETAS = (0.3, 1.0, 3.0)  # of losses whose rewards are means over tokens, not sums
ANCHOR = {"anchor": 1.0}
STRONG = {"anchor": 3.0}  # SparsePO's default
ALONE = {"anchor": 0.0}
BUDGET, STRONG_BUDGET = 1.0, 0.5  # nats


@dataclass(frozen=True)
class Method:
    """One line of the comparison.

    Attributes:
      loss: name in the registry.
      options: what is not the loss's default.
      betas: of which validation prompts choose one.
      weights: what the pairs' token weights are: log-ratios of guides, their sigmoid, or 1 on the words that
        the reward weighs most and 0 elsewhere.
      against: the method it is compared with; empty: none.
      budget: nats at which that is done.
    """

    loss: str
    options: Mapping[str, Any] = field(default_factory=dict)
    betas: tuple[float, ...] = BETAS
    weights: Weights = "none"
    against: str = "dpo"
    budget: float = BUDGET


WORDS = {"transform": "none"}
METHODS: dict[str, Method] = {
    "dpo": Method("dpo", against=""),
    **{name: Method(name) for name in ("cdpo", "ipo", "dpop", "d2po", "tdpo1", "tdpo2", "mapo", "otpo")},
    "sparsepo": Method("sparsepo", ALONE),
    "simpo": Method("simpo", betas=MEAN_BETAS),
    "confpo": Method("confpo", betas=MEAN_BETAS),
    "tisdpo": Method("tisdpo", weights="guides"),
    "tgdpo": Method("tgdpo", weights="guides"),
    "criticaldpo": Method("criticaldpo", weights="probabilities"),
    "sepo": Method("sepo", betas=MEAN_BETAS, weights="guides"),
    "oracle": Method("tisdpo", WORDS, weights="words"),
    "dpo + anchor": Method("dpo", ANCHOR),
    **{f"{name} + anchor": Method(name, ANCHOR, against="dpo + anchor") for name in ("d2po", "otpo")},
    "sparsepo + anchor": Method("sparsepo", ANCHOR, against="dpo + anchor"),
    **{
        f"{name} + anchor": Method(name, ANCHOR, weights="guides", against="dpo + anchor")
        for name in ("tisdpo", "tgdpo")
    },
    "criticaldpo + anchor": Method("criticaldpo", ANCHOR, weights="probabilities", against="dpo + anchor"),
    "oracle + anchor": Method("tisdpo", {**WORDS, **ANCHOR}, weights="words", against="dpo + anchor"),
    "dpo + anchor 3": Method("dpo", STRONG, budget=STRONG_BUDGET),
    "sparsepo + anchor 3": Method("sparsepo", STRONG, against="dpo + anchor 3", budget=STRONG_BUDGET),
}
# Every response has as many tokens as the other one, where this loss is DPO.
SAME_AS_DPO = ("lddpo", "lddpo + anchor")
COMPARED = [name for name, method in METHODS.items() if method.against]
LEVEL = 0.05
REFERENCE = "reference"  # its rows stand under this name, at step 0


@dataclass(frozen=True)
class Sizes:
    """Sizes of the comparison; ``language`` and the two texts' numbers are the first study's.

    Attributes:
      language: model and its training.
      reviews, check: texts of the two classifiers; 0: all.
      prompt, length: tokens given and tokens written.
      prompts: reviews whose beginning is a training prompt.
      pairs, batch, stops, rate: of a run, which ends with the last stop.
      guide: loss and beta of the guides, which train on half of the pairs for as many steps.
      validation: prompts; blocks, block: of test prompts; skipped: those that the first study has used.
      seeds, methods: compared.
    """

    language: Size
    reviews: int = 0
    check: int = 0
    prompt: int = 8
    length: int = 16
    prompts: int = 1000
    pairs: int = 320
    batch: int = 16
    stops: tuple[int, ...] = (8, 20)
    rate: float = 6e-4
    guide: tuple[str, float] = ("dpo", 0.8)
    validation: int = 64
    skipped: int = 160
    blocks: int = 40
    block: int = 8
    seeds: tuple[int, ...] = (10, 11, 12)
    methods: tuple[str, ...] = tuple(METHODS)

    def points(self) -> list[tuple[str, float, int]]:
        """Method, beta and seed of every run; what a seed shares is made once."""
        return [
            (name, beta, seed) for seed in self.seeds for name in self.methods for beta in METHODS[name].betas
        ]


SIZES = {
    "full": Sizes(Size(3072, 128, 4, 2000)),
    "smoke": Sizes(
        Size(300, 32, 2, 40, batch=16), prompts=40, pairs=16, batch=8, stops=(2, 4), validation=8, skipped=2,
        blocks=4, block=2, length=8, seeds=(90, 91),
        methods=("dpo", "otpo", "confpo", "tisdpo", "criticaldpo", "oracle", "dpo + anchor"),
    ),
}  # fmt: skip
