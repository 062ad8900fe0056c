"""See the package."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import benchmarks.gpu_check
from benchmarks.gpu_check.plan import STEPS, Step
from benchmarks.gpu_check.report import Setting
from benchmarks.step.report import commit, versions

ROOT = Path(__file__).resolve().parents[2]
CALL_SECONDS = 570


def execute(step: Step, tiny: bool, limit: float) -> dict[str, Any]:
    """Run a step as a process group of its own; what it found, or how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, "-m", "benchmarks.gpu_check.step", step.name, str(file)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        start = time.monotonic()
        process = subprocess.Popen(
            [*command, *(["--tiny"] if tiny else [])], cwd=ROOT, env=environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        try:
            output, status = process.communicate(timeout=limit)[0], "failed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, status = process.communicate()[0], "timeout"
        found: dict[str, Any] = {"status": status, "numbers": {}, "told": f"exit code {process.returncode}"}
        if file.is_file():
            found = json.loads(file.read_text())
        return {
            "name": step.name, "call": step.call, "status": found.pop("status"),
            "seconds": round(time.monotonic() - start, 1), **found, "output": output[-1500:],
        }  # fmt: skip


def done_before(results: Path, told: dict[str, Any]) -> set[str]:
    """Names of steps that a results file holds as ok under the same circumstances."""
    lines = results.read_text().splitlines() if results.is_file() else []
    found = set()
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that a kill cut off
        if row.get("status") == "ok" and told.items() <= row.items():
            found.add(row["name"])
    return found


def append(results: Path, row: dict[str, Any]) -> None:
    """Add a line, whole on the disk when this returns; a line that a kill cut off is ended first."""
    cut = results.is_file() and not results.read_bytes().endswith(b"\n") and results.stat().st_size > 0
    with open(results, "a", encoding="utf-8") as file:
        file.write("\n" * cut + json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=benchmarks.gpu_check.__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for results.jsonl")
    parser.add_argument("--call", type=int, nargs="*", choices=(1, 2, 3, 4), help="default: all")
    parser.add_argument("--only", nargs="*", metavar="NAME", choices=STEPS, help="these steps alone")
    parser.add_argument(
        "--tiny", action="store_true", help="small sizes, on any device: does every step run?"
    )
    parser.add_argument(
        "--slack", type=float, default=1.0, metavar="X", help="time limits times X, for steps beside others"
    )
    parser.add_argument("--again", action="store_true", help="also what results.jsonl holds as ok")
    arguments = parser.parse_args()
    setting = Setting(arguments.tiny)
    if setting.device == "cpu" and not arguments.tiny:
        print("no CUDA device is visible: expected one; --tiny runs on CPU", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = arguments.out / "results.jsonl"
    told = {"commit": commit(), "tiny": arguments.tiny, "card": setting.name()}
    known = set() if arguments.again else done_before(results, told)
    steps = [s for s in STEPS.values() if s.name in (arguments.only or STEPS)]
    steps = [s for s in steps if s.call in (arguments.call or (1, 2, 3, 4)) and s.name not in known]
    end = time.monotonic() + CALL_SECONDS * len(arguments.call or (1, 2, 3, 4))
    bad = 0
    for step in steps:
        # Rehearsals share a machine with whatever else it does.
        limit = 900.0 if arguments.tiny else min(step.seconds * arguments.slack, end - time.monotonic())
        if limit < 10:
            print(f"{step.name}: no time left in this call", flush=True)
            continue
        row = {**execute(step, arguments.tiny, limit), **told, "versions": versions()}
        append(results, row)
        bad += row["status"] in ("failed", "timeout")
        print(f"{row['status']:8} {row['seconds']:7.1f} s  {step.name}  {row['told'][:160]}", flush=True)
    print(f"{len(steps)} steps, {bad} failed, {len(known)} known before; {results}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
