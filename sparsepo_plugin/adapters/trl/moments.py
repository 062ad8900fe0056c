"""When a training begins, steps and ends, as TRL's trainer tells it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sparsepo_plugin.run_folder import closing


class Moments(TrainerCallback):
    """Tells the trainer when training begins, when the policy was stepped, and when training has ended.

    Attributes:
      seconds: that the training took, once it has ended.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._started, self.seconds = time.monotonic(), 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the log."""
        self._started = time.monotonic()
        self._trainer.start_pair_log()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Step the mask module after the policy."""
        self._trainer.step_masks()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Say what the training reached."""
        self.seconds = time.monotonic() - self._started
        self._trainer.say_end()


def closing_lines(trainer: Any, seconds: float) -> list[str]:
    """The five lines of a training whose policy its user saves.

    Args:
      trainer: of PreferenceMixin.
      seconds: that the training took.
    """
    folder = Path(trainer.args.output_dir)
    unsaved = "once trainer.save_model() has written it"
    last = folder / f"checkpoint-{trainer.state.global_step}"
    if last.is_dir():
        unsaved += f"; last checkpoint: {last}"
    start = trainer.model.config.name_or_path or "MODEL"
    loss = trainer.preference_objective.loss.name
    return closing.lines(folder, start, loss, seconds, names=closing.TRL, unsaved=unsaved)
