"""How large the study is: full, small (make study SMALL=1), and smoke (the test)."""

from __future__ import annotations

from dataclasses import dataclass

from study.language import Size
from study.methods import METHODS


@dataclass(frozen=True)
class Sentiment:
    """Sizes of the sentiment experiment.

    Attributes:
      language: model and its training.
      reviews: reviews of the training file used, for model and classifiers; 0: all.
      check: sentences for the second classifier; 0: all.
      prompt, length: tokens given and tokens written.
      prompts: reviews whose beginning is a training prompt.
      pairs, steps, batch: of a run; ``stops`` are the steps after which it is measured.
      validation, test: prompts on which settings are chosen, and on which they are judged.
      methods, seeds: compared; betas: how many of each method's.
      budgets: nats at which methods are compared; settings are chosen at the last.
      longer: steps after which longer trainings are measured, the last one their end; longer_pairs: of such
        a run, passed several times.
    """

    language: Size
    reviews: int = 0
    check: int = 0
    prompt: int = 8
    length: int = 16
    prompts: int = 1000
    pairs: int = 320
    steps: int = 20
    batch: int = 16
    stops: tuple[int, ...] = (8, 20)
    validation: int = 64
    test: int = 160
    methods: tuple[str, ...] = tuple(name for name in METHODS if name != "random mask")
    seeds: tuple[int, ...] = (0, 1, 2)
    betas: int = 4
    budgets: tuple[float, ...] = (0.5, 1.0, 2.0)
    longer: tuple[int, ...] = (20, 60, 160)
    longer_pairs: int = 1000


@dataclass(frozen=True)
class Preferences:
    """Sizes of the dialogue and of the summary experiments.

    Attributes:
      supervised: steps, batch and rate of the supervised start (vocabulary and width are the base model's).
      rate: learning rate; at sentiment's the policies left every budget behind before they were looked at
        (validation prompts, docs/study/dialogue_first_rate.csv).
      pairs, steps, batch, stops: of a run, as for sentiment.
      validation, test: prompts; draws: responses to a test prompt, of every policy.
      methods, betas, seeds: compared.
      budgets: nats; temperatures are tried at the last.
      evaluated: items per task, or documents, of the gated suites; 0: all that the presets take.
    """

    supervised: Size
    rate: float = 1.5e-4
    pairs: int = 256
    steps: int = 16
    batch: int = 16
    stops: tuple[int, ...] = (5, 10, 16)
    validation: int = 128
    test: int = 300
    draws: int = 3
    methods: tuple[str, ...] = ("dpo", "dpo + anchor", "sparsepo common", "sparsepo + anchor")
    betas: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    budgets: tuple[float, ...] = (0.5, 2.0)
    temperatures: tuple[float, ...] = (0.0, 0.5, 1.0)
    evaluated: int = 0


TUNING_SEED = 100
TWO = ("dpo", "sparsepo common")
SENTIMENT = {
    "full": Sentiment(Size(3072, 128, 4, 2000)),
    "small": Sentiment(
        Size(1024, 64, 2, 300), reviews=1500, check=2000, prompts=300, pairs=160, steps=10, stops=(5, 10),
        validation=48, test=96, methods=("dpo", "dpo + anchor", "tdpo1", "mapo", "sparsepo common"),
        seeds=(0, 1), betas=2, longer=(10, 30),
    ),
    "smoke": Sentiment(
        Size(300, 32, 2, 40, batch=16), prompts=40, pairs=16, steps=4, batch=8, stops=(2, 4), validation=16,
        test=16, length=8, methods=TWO, seeds=(0, 1), betas=2, longer=(2, 6),
    ),
}  # fmt: skip
PREFERENCES = {
    "full": Preferences(Size(0, 0, 0, 150, batch=16, rate=1e-3)),
    "small": Preferences(
        Size(0, 0, 0, 60, batch=16, rate=1e-3), pairs=128, steps=8, stops=(4, 8), validation=32, test=60,
        draws=1, methods=TWO, betas=2, seeds=(0, 1), temperatures=(0.0, 1.0), evaluated=10,
    ),
    "smoke": Preferences(
        Size(0, 0, 0, 4, batch=8, rate=1e-3), pairs=16, steps=4, batch=8, stops=(2, 4),
        validation=8, test=8, draws=2, methods=TWO, betas=2, seeds=(0, 1),
        temperatures=(0.0, 1.0), evaluated=2,
    ),
}  # fmt: skip
