"""The table of a sweep: one row per run, the same in CSV and Markdown, then means over seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsepo_plugin.adapters.openrlhf.run_identity import is_free
from sparsepo_plugin.report.plots.frontier import by_beta, spread
from sparsepo_plugin.report.plots.paired import markdown_table
from sparsepo_plugin.run_folder import configuration, metrics

_METRICS = ("accuracy", "accuracy_unmasked", "margin", "margin_unmasked", "sequence_kl")
_MASKS = ("reward_mask_sparsity", "kl_mask_sparsity", "reward_mask_mean", "kl_mask_mean")
COLUMNS = (
    *("run", "loss", "beta", "options", "seed", "status", "step", "eval_loss"),
    *_METRICS,
    *_MASKS,
    "seconds",
)


def measured(folder: Path) -> dict[str, Any]:
    """The last evaluation of a finished run, under the table's names.

    ``sequence_kl`` is the mean over both responses of the pair.
    """
    rows = metrics.read(folder)["eval"]
    last = rows[-1] if rows else {}
    sides = [last.get(f"{side}_sequence_kl") for side in ("chosen", "rejected")]
    mean = None if None in sides else sum(sides) / 2  # type: ignore[arg-type]
    named = {name: last.get(name) for name in ("step", *_METRICS, *_MASKS)}
    return {**named, "sequence_kl": mean, "eval_loss": last.get("loss")}


def differing(folders: Sequence[Path]) -> dict[Path, str]:
    """Of runs of several grids, in what their bases differ, as ``flag=value`` in a line."""
    found = {folder: configuration.read(folder) for folder in folders}
    bases = {
        folder: {key: value for key, value in flags.items() if _of_base(key, flags["loss"])}
        for folder, flags in found.items()
        if flags
    }
    values: dict[str, set[str]] = {}
    for base in bases.values():
        for key, value in base.items():
            values.setdefault(key, set()).add(str(value))
    keys = sorted(key for key, seen in values.items() if len(seen) > 1)
    return {folder: " ".join(f"{key}={base.get(key)}" for key in keys) for folder, base in bases.items()}


def _of_base(key: str, loss: str) -> bool:
    """Whether a flag is none of a point's own, and moves its numbers."""
    own = key in ("loss", "model.beta", "train.seed") or key.startswith(f"{loss}.")
    return key == "eval.dataset" or not (own or is_free(key))


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Full precision, empty where a loss has no such metric."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: row.get(name) for name in COLUMNS} for row in rows)
    return text.getvalue()


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The same table rounded, then one row per configuration with mean ± standard error over seeds."""
    shown = [[_cell(row.get(name)) for name in COLUMNS] for row in rows]
    lines = ["# Runs", "", *markdown_table(COLUMNS, *shown)]
    names = ("eval_loss", *_METRICS, *_MASKS)
    means = []
    for name, betas in by_beta(rows).items():
        for beta, seeds in betas.items():
            means_of = [_mean(seeds, column) for column in names]
            means.append([name, f"{beta:g}", str(len(seeds)), *means_of])
    head = ["loss and options", "beta", "seeds", *names]
    return (
        "\n".join([*lines, "", "# Mean over seeds \u00b1 standard error", "", *markdown_table(head, *means)])
        + "\n"
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _mean(rows: list[dict[str, Any]], name: str) -> str:
    known = spread(rows, name)
    if known is None:
        return ""
    return f"{known.mean:.4g}" + (f" \u00b1 {known.error:.2g}" if len(rows) > 1 else "")
