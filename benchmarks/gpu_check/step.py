"""Run one step in this process: python -m benchmarks.gpu_check.step NAME FILE [--tiny]."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.plan import STEPS
from benchmarks.gpu_check.report import Report, Setting, SkippedError


def run(name: str, setting: Setting) -> dict[str, Any]:
    """Status, numbers and what is broken."""
    report, status, told = Report(), "ok", ""
    try:
        STEPS[name].work(report, setting)
    except SkippedError as reason:
        status, told = "skipped", str(reason)
    except Exception:  # whatever a device makes of it: this step has failed, and the next one runs
        status, told = "failed", traceback.format_exc()[-2000:]
    if report.broken:
        status, told = "failed", "; ".join([*report.broken, told]).rstrip("; ")
    return {"status": status, "device": setting.name(), "numbers": report.numbers, "told": told}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=STEPS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    found = run(arguments.name, Setting(arguments.tiny))
    part = arguments.file.with_suffix(".part")
    part.write_text(json.dumps(found))
    os.replace(part, arguments.file)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
