"""What was measured, as a table on the screen and as rows of one CSV file."""

from __future__ import annotations

import csv
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from benchmarks.step.measure import Usage
from benchmarks.step.workloads import Workload

PACKAGES = ("torch", "transformers", "openrlhf", "trl")


class Line(NamedTuple):
    """One row of a workload: usage per round, peaks of the step and of head and loss (MiB), tokens."""

    name: str
    times: list[Usage]
    step_peaks: list[float]
    loss_peaks: list[float]
    tokens: int


class Setting(NamedTuple):
    """Where and on what: device, threads (0 where they do not matter), number format, sizes of the model."""

    device: str
    threads: int
    dtype: str
    model: str


class Spread(NamedTuple):
    """Median, least and most of the rounds."""

    median: float
    least: float
    most: float


def ratios(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Ratios within the rounds."""
    found = [value / other for value, other in zip(values, base)]
    return Spread(statistics.median(found), min(found), max(found))


def print_lines(work: Workload, lines: list[Line]) -> None:
    """A table; ratios are to its first line."""
    size = f"{work.pairs} pairs, {lines[0].tokens} tokens in two rows"
    print(f"\n{work.label()}: vocabulary {work.vocabulary}, {size}")
    print(f"{'row':32} {'wall s':>7} {'ratio of wall time':>21} {'of processor time':>21}", end="")
    print(f" {'step MiB':>9} {'ratio':>5} {'loss MiB':>9} {'ratio':>5}")
    for line in lines:
        entry = _entry(line, lines[0])
        print(f"{line.name:32}", end="")
        if not line.times:
            print(" out of memory")
            continue
        spreads = (" ".join(_shown(entry, kind)) for kind in ("wall", "cpu"))
        print(f" {entry['wall_s']:7.3f}", *(f"{spread:>21}" for spread in spreads), end="")
        for kind in ("step", "loss"):
            peak, ratio = (entry.get(f"{kind}_{part}", float("nan")) for part in ("mib", "ratio"))
            print(f" {peak:9.0f} {ratio:5.2f}", end="")
        print(flush=True)


def _shown(entry: dict[str, float], kind: str) -> tuple[str, ...]:
    """Median and range of a ratio; nothing where the first row did not fit."""
    if f"{kind}_ratio" not in entry:
        return ("-",)
    median, least, most = (entry[f"{kind}_{part}"] for part in _PARTS)
    return f"{median:.2f}", f"[{least:.2f} .. {most:.2f}]"


_PARTS = ("ratio", "least", "most")


def _entry(line: Line, base: Line) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind in ("wall", "cpu"):
        mine, theirs = ([getattr(usage, kind) for usage in which.times] for which in (line, base))
        if mine:
            found[f"{kind}_s"] = round(statistics.median(mine), 4)
        if mine and theirs:
            found |= {f"{kind}_{part}": round(v, 4) for part, v in zip(_PARTS, ratios(mine, theirs))}
    for kind in ("step", "loss"):
        peaks, others = (getattr(which, f"{kind}_peaks") for which in (line, base))
        if peaks:
            found[f"{kind}_mib"] = round(statistics.median(peaks), 1)
        if peaks and others:
            found[f"{kind}_ratio"] = round(ratios(peaks, others).median, 4)
    return found


def append(path: Path, work: Workload, lines: list[Line], setting: Setting) -> None:
    """Add the rows to a CSV file; the first call writes the header."""
    told = {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"), "commit": commit(),
        **setting._asdict(),
        "workload": work.label(), "vocabulary": work.vocabulary, "pairs": work.pairs, "micro": work.micro,
    }  # fmt: skip
    rows = [
        {**told, "tokens": line.tokens, "row": line.name, "rounds": len(line.times),
         **{name: _entry(line, lines[0]).get(name, "") for name in _COLUMNS}, "versions": versions()}
        for line in lines
    ]  # fmt: skip
    write_header = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        if write_header:
            writer.writeheader()
        writer.writerows(rows)


_COLUMNS = (
    *(f"{kind}_{part}" for kind in ("wall", "cpu") for part in ("s", *_PARTS)),
    *("step_mib", "step_ratio", "loss_mib", "loss_ratio"),
)


def versions() -> str:
    """Versions of what was run, those that are installed."""
    found = {entry.metadata["Name"].lower(): entry.version for entry in metadata.distributions()}
    return " ".join(f"{name} {found[name]}" for name in PACKAGES if name in found)


@cache
def commit() -> str:
    """The commit when this is first called, marked where files differ from it; call it before measuring."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return found.stdout.strip() or "unknown"
