"""Write the GPU table of docs/performance.md from a results file.

    python -m benchmarks.gpu_check.table runs/gpu/results.jsonl docs/performance.md

Without a results file, or with a rehearsal's, the page says that there is no GPU figure.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.speed import ROWS, WORKLOADS

BEGIN, END = "<!-- gpu:begin (benchmarks.gpu_check.table) -->", "<!-- gpu:end -->"
NOTHING = "There is no GPU figure: no GPU was at hand."


def read(path: Path | None) -> dict[str, dict[str, Any]]:
    """The last line of every step on a GPU at full size."""
    if path is None or not path.is_file():
        return {}
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # cut off by a kill
    return {row["name"]: row for row in rows if not row["tiny"] and row["card"] != "CPU"}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: how the steps ended, and ratios to OpenRLHF's padded DPO."""
    if not found:
        return NOTHING
    any_row = next(iter(found.values()))
    bad = [
        f"{name} ({row['status']})" for name, row in found.items() if row["status"] in ("failed", "timeout")
    ]
    works = [name for name in [*(f"step: {w}" for w in WORKLOADS), "step: 8B, tldr"] if name in found]
    lines = [
        f"{any_row['card']}, commit {any_row['commit']}, {any_row['versions']}. {len(found)} steps; not ok: "
        f"{', '.join(bad) or 'none'}. Ratios of seconds and of memory to OpenRLHF's padded DPO.",
        "",
        f"| row | {' | '.join(name.removeprefix('step: ') for name in works)} |",
        f"| --- |{' --- |' * len(works)}",
    ]
    return "\n".join(
        [*lines, *(f"| {row} | {' | '.join(_cell(found[w], row) for w in works)} |" for row in ROWS)]
    )


def _cell(work: dict[str, Any], row: str) -> str:
    numbers = work["numbers"]
    if f"{row}: left out" in numbers:
        return "-"
    if numbers.get(f"{row}: MiB") == "out of memory":
        return "does not fit"
    ratio, mib, base = (
        numbers.get(key) for key in (f"{row}: ratio", f"{row}: MiB", "openrlhf dpo, padded: MiB")
    )
    if ratio is None:
        seconds = numbers.get(f"{row}: seconds")
        return "-" if seconds is None else f"{seconds:.3f} s"
    memory = f", {mib / base:.2f}" if isinstance(mib, float) and isinstance(base, float) and base else ""
    return f"{ratio[0]:.2f} [{ratio[1]:.2f} .. {ratio[2]:.2f}]{memory}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    arguments = parser.parse_args()
    page = arguments.page.read_text(encoding="utf-8")
    if BEGIN not in page or END not in page:
        raise SystemExit(f"{arguments.page}: expected the lines {BEGIN} and {END}")
    head, rest = page.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    part = arguments.page.with_suffix(".part")
    part.write_text(f"{head}{BEGIN}\n\n{table(read(arguments.results))}\n\n{END}{tail}", encoding="utf-8")
    os.replace(part, arguments.page)


if __name__ == "__main__":
    main()
