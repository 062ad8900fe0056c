"""The one progress bar of a training, in the place of upstream's of epochs, steps and evaluations."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sized
from typing import Any

from tqdm import tqdm

# Under which names the numbers of a step are shown, the first of which is there: ours, then upstream's.
_SHOWN = {
    "loss": ("loss", "loss_mean", "eval_loss"),
    "accuracy": ("accuracy", "acc_mean"),
    "margin": ("margin",),
    "KL": ("chosen_sequence_kl",),
    "sparsity": ("reward_mask_sparsity",),
    "rate": ("lr",),
}
_SECONDS_BETWEEN = 10.0  # two lines of a log file, in which every state of a bar stays


class Progress:
    """A bar over the optimizer steps of a run; during an evaluation it says how far that one is.

    Args:
      steps: of the whole run.
      done: of them before a resumption.
      active: whether this process shows it.

    Attributes:
      evaluation: what upstream found in its last evaluation.
    """

    def __init__(self, steps: int, done: int, *, active: bool) -> None:
        between = 0.1 if sys.stderr.isatty() else _SECONDS_BETWEEN
        self._bar = tqdm(
            total=steps, initial=done, desc="train", unit="step", mininterval=between, disable=not active
        )
        self.evaluation: dict[str, float] = {}

    def in_place_of_tqdm(self, items: Sized, desc: str = "", **_: Any) -> UpstreamBar:
        """What upstream gets where it asks for a bar."""
        return UpstreamBar(self, len(items), evaluating=desc.startswith("Eval"))

    def step(self, values: Mapping[str, Any]) -> None:
        """Show a step that is done, with its numbers."""
        self._bar.set_postfix(shown(values), refresh=False)
        self._bar.update()

    def evaluated(self, batches: int, of: int) -> None:
        """Show how far an evaluation is; once it is done, the training again."""
        self._bar.set_description_str("train" if batches == of else f"evaluate {batches}/{of}", refresh=False)
        self._bar.update(0)

    def close(self) -> None:
        """End the bar; it stays to be seen."""
        self._bar.close()


class UpstreamBar:
    """A bar as upstream uses it; those of evaluations move the one bar, the others nothing."""

    def __init__(self, progress: Progress, batches: int, *, evaluating: bool) -> None:
        self._progress, self._batches, self._evaluating, self._done = progress, batches, evaluating, 0

    def update(self) -> None:
        """A batch is done."""
        self._done += 1
        if self._evaluating:
            self._progress.evaluated(self._done, self._batches)

    def set_postfix(self, values: Mapping[str, Any]) -> None:
        """Keep upstream's numbers of an evaluation; those of a batch are shown at the end of its step."""
        if self._evaluating:
            self._progress.evaluation = dict(values)


def shown(values: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of a step as the bar and the lines of evaluations show them."""
    found = {}
    for name, sources in _SHOWN.items():
        known = [values[source] for source in sources if values.get(source) is not None]
        if known:
            found[name] = f"{known[0]:.4g}"
    return found
