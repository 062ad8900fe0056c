"""Metrics over training, runs over each other, seeds of one configuration as mean and range."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_plugin.report.plots import histograms, style
from sparsepo_plugin.report.plots.groups import Curve, Group, group, read_runs


class Panel(NamedTuple):
    """One metric: its name in metrics.jsonl, and what the axis says."""

    metric: str
    label: str


FIGURES: dict[str, tuple[Panel, ...]] = {
    "loss": (Panel("loss", "loss (nats; squared for ipo)"),),
    "accuracy": (
        Panel("accuracy", "reward accuracy (share of pairs)"),
        Panel("accuracy_unmasked", "accuracy, masks removed (share of pairs)"),
    ),
    "margin": (
        Panel("margin", "margin = logit of the loss (beta x nats)"),
        Panel("margin_unmasked", "margin, masks removed (beta x nats)"),
    ),
    "sequence_kl": (
        Panel("chosen_sequence_kl", "KL(reference, policy), chosen (nats)"),
        Panel("rejected_sequence_kl", "KL(reference, policy), rejected (nats)"),
    ),
    "sparsity": (
        Panel("reward_mask_sparsity", "reward mask: share of tokens at 0"),
        Panel("kl_mask_sparsity", "KL mask: share of tokens at 0"),
    ),
    "mask_mean": (
        Panel("reward_mask_mean", "reward mask: mean over tokens"),
        Panel("kl_mask_mean", "KL mask: mean over tokens"),
    ),
}
_SHARES = ("accuracy", "sparsity")
# A training curve is averaged over this share of its steps, because single batches hide it.
_SMOOTHING = 40


def plot(names: list[str], output: str) -> None:
    """Write the figures of runs and say which.

    Args:
      names: output folders of trainings.
      output: folder for the figures; figures written earlier are replaced.

    Raises:
      UserError: a run cannot be read, or the output is not ours to write.
    """
    folder = Path(output)
    style.check(folder, [*FIGURES, histograms.NAME])
    groups = group(read_runs(names))
    written = []
    for name, panels in FIGURES.items():
        if made := draw(name, panels, groups):
            written += style.save(made, folder, name)
    if made := histograms.draw(groups):
        written += style.save(made, folder, histograms.NAME)
    print(f"{folder}: {', '.join(path.name for path in written)}")


def draw(name: str, panels: tuple[Panel, ...], groups: list[Group]) -> Any:
    """One figure, or None where no run has any of its metrics."""
    shown = [panel for panel in panels if _has(groups, panel.metric)]
    if not shown:
        return None
    made, axes = style.figure(len(shown))
    window = 1
    for axis, panel in zip(axes, shown):
        for number, members in enumerate(groups):
            window = max(window, _draw_group(axis, members, panel.metric, style.look(number)))
        axis.set_xlabel("training step")
        axis.set_ylabel(panel.label)
        if name in _SHARES:
            axis.set_ylim(-0.02, 1.02)
    _explain(axes[0], groups, shown, window)
    style.legend(made, axes)
    return made


def _has(groups: list[Group], metric: str) -> bool:
    return any(members.curve(split, metric).steps for members in groups for split in ("train", "eval"))


def _draw_group(axis: Any, members: Group, metric: str, looks: style.Look) -> int:
    """Draw evaluation (strong, with markers) and training (thin); returns the training curve's window."""
    held_out, training = members.curve("eval", metric), members.curve("train", metric)
    window = max(1, len(training.steps) // _SMOOTHING)
    smooth = _smooth(training, window)
    if smooth.steps:
        axis.plot(smooth.steps, smooth.mean, color=looks.colour, linewidth=0.8, alpha=0.6, linestyle="--")
    if held_out.steps:
        axis.plot(held_out.steps, held_out.mean, color=looks.colour, marker=looks.marker, markersize=4)
    band = held_out if held_out.steps else smooth
    if len(members.runs) > 1 and band.steps:
        axis.fill_between(band.steps, band.low, band.high, color=looks.colour, alpha=0.18, linewidth=0)
    return window


def _smooth(curve: Curve, window: int) -> Curve:
    """Mean over the last ``window`` steps, from the first step that has so many."""
    columns = [
        [sum(values[end - window : end]) / window for end in range(window, len(values) + 1)]
        for values in (curve.mean, curve.low, curve.high)
    ]
    return Curve(curve.steps[window - 1 :], *columns)


def _explain(axis: Any, groups: list[Group], panels: list[Panel], window: int) -> None:
    """Legend entries: the groups, then what kinds of line there are."""
    for number, members in enumerate(groups):
        looks = style.look(number)
        axis.plot([], [], color=looks.colour, marker=looks.marker, markersize=4, label=members.label)
    splits = {
        split
        for split in ("train", "eval")
        if any(members.curve(split, panel.metric).steps for members in groups for panel in panels)
    }
    mean = f", mean of {window} steps" if window > 1 else ""
    if "eval" in splits:
        axis.plot([], [], color="grey", marker="o", markersize=4, label="held-out pairs")
    if "train" in splits:
        axis.plot([], [], color="grey", linewidth=0.8, linestyle="--", label=f"training batches{mean}")
    if any(len(members.runs) > 1 for members in groups):
        axis.fill_between(
            [], [], [], color="grey", alpha=0.18, linewidth=0, label="least to largest of seeds"
        )
