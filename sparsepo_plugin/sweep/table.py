"""The table of a sweep: one row per run, the same in CSV and Markdown, then means over seeds."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from sparsepo_plugin.report.plots.frontier import by_beta, spread
from sparsepo_plugin.run_folder import metrics

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


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Full precision, empty where a loss has no such metric."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: row.get(name) for name in COLUMNS} for row in rows)
    return text.getvalue()


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The same table rounded, then one row per configuration with mean [least, largest] over seeds."""
    shown = [[_cell(row.get(name)) for name in COLUMNS] for row in rows]
    lines = ["# Runs", "", *_table(list(COLUMNS), shown)]
    names = ("eval_loss", *_METRICS, *_MASKS)
    means = []
    for name, betas in by_beta(rows).items():
        for beta, seeds in betas.items():
            ranges = [_range(seeds, column) for column in names]
            means.append([name, f"{beta:g}", str(len(seeds)), *ranges])
    head = ["loss and options", "beta", "seeds", *names]
    return "\n".join([*lines, "", "# Mean over seeds [least, largest]", "", *_table(head, means)]) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _range(rows: list[dict[str, Any]], name: str) -> str:
    known = spread(rows, name)
    if known is None:
        return ""
    ends = f" [{known.mean - known.below:.4g}, {known.mean + known.above:.4g}]" if len(rows) > 1 else ""
    return f"{known.mean:.4g}{ends}"
