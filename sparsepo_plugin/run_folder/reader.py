"""Read what a training left in its folder: metrics, configuration, mask histograms, token record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsepo_plugin import config
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.run_folder.run_log import CONFIG_FILE, METRICS_FILE
from sparsepo_plugin.run_folder.token_record import HISTOGRAMS_FILE


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line.

    Raises:
      UserError: the file is missing or no JSON lines.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a file of JSON lines") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: got bytes that are not UTF-8, expected a file of JSON lines") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"{path} line {number}: got no JSON ({error}); is the file cut off? write it again"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: got {type(row).__name__}, expected a JSON object")
        yield number, row


def metrics(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of metrics.jsonl by split, in order of steps; of a step written twice (resumed) the last.

    Raises:
      UserError: no such file, or one of another form.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        raise UserError(f"{folder}: got no {METRICS_FILE}, expected the output folder of a training")
    found: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "eval": {}}
    for number, row in json_lines(path):
        split, step = row.get("split"), row.get("step")
        if split not in found or not isinstance(step, int):
            raise UserError(
                f"{path} line {number}: got split {split!r} and step {step!r}, expected train or eval and a "
                "number; it is no metrics.jsonl of a training"
            )
        found[split][step] = row
    if not any(found.values()):
        raise UserError(f"{path}: got no steps, expected at least one; has the training begun?")
    return {split: [rows[step] for step in sorted(rows)] for split, rows in found.items()}


def histograms(folder: Path) -> list[dict[str, Any]]:
    """Rows of mask_histograms.jsonl in order of steps; empty where nothing was recorded."""
    path = folder / HISTOGRAMS_FILE
    if not path.is_file():
        return []
    rows = {row.get("step", number): row for number, row in json_lines(path)}
    for row in rows.values():
        if not {"step", "edges", "reward_mask", "kl_mask"} <= set(row):
            raise UserError(f"{path}: got keys {', '.join(sorted(row))}, expected step, edges and both masks")
    return [rows[step] for step in sorted(rows)]


def configuration(folder: Path) -> dict[str, Any]:
    """Effective configuration with dotted keys; empty where the folder has none."""
    path = folder / CONFIG_FILE
    return config.read_flat(path) if path.is_file() else {}
