"""What was written: a histogram in the terminal, and a page of the first pairs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sparsepo_plugin.adapters.pairs.weights import COLUMNS
from sparsepo_plugin.report.view.page import view
from sparsepo_plugin.run_folder import tokens
from sparsepo_plugin.weigh.pairs_file import Row

_BINS, _WIDTH = 10, 40


def histogram(rows: Sequence[Row]) -> list[str]:
    """Lines that show how the numbers of all spans are spread, of chosen and of rejected responses."""
    sides = {name: [span[2] for row in rows for span in row[column]] for name, column in COLUMNS.items()}
    numbers = sorted(number for side in sides.values() for number in side)
    if not numbers:
        return ["no token got a number"]
    # A few far ones do not squeeze the rest into one bin.
    low, high = numbers[len(numbers) // 100], numbers[-1 - len(numbers) // 100]
    width = (high - low) / _BINS or 1.0
    counts = {name: _counts(side, low, width) for name, side in sides.items()}
    largest = max(max(side) for side in counts.values()) or 1
    lines = [f"{'from':>10} {'to':>10}  chosen, then rejected (the ends hold what lies beyond)"]
    for n in range(_BINS):
        for name, mark in (("chosen", "#"), ("rejected", "-")):
            head = f"{low + n * width:10.3g} {low + (n + 1) * width:10.3g}" if name == "chosen" else " " * 21
            count = counts[name][n]
            lines.append(f"{head}  {mark * math.ceil(_WIDTH * count / largest)} {count}")
    for name, side in sides.items():
        mean = f", mean {math.fsum(side) / len(side):.4g}" if side else ""
        lines.append(f"{name}: {len(side)} spans{mean}")
    return lines


def _counts(numbers: Sequence[float], low: float, width: float) -> list[int]:
    counts = [0] * _BINS
    for number in numbers:
        counts[min(max(int((number - low) / width), 0), _BINS - 1)] += 1
    return counts


def write_page(records: list[dict[str, object]], page: Path) -> None:
    """Write the page of token records, as ``sparsepo view`` does.

    Raises:
      UserError: the page is not ours to write.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokens.write(Path(folder), 0, records)
        view(folder, str(page))
