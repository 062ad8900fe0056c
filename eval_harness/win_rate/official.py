"""The official alpaca-eval package, in an environment of its own, asked about the same texts.

alpaca-eval 0.6.6 needs older setuptools, pandas and scikit-learn than lm-eval and OpenRLHF live with, so it
never shares their environment. Nothing of it is copied: template and parser are read from the package.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.files.configs import config_folder
from eval_harness.files.writing import write_text
from eval_harness.judges.http import HTTPJudge
from eval_harness.judges.types import Judge
from eval_harness.models.identity import sha
from eval_harness.win_rate.comparisons import Comparison

ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
_QUIET = ("--quiet", "--disable-pip-version-check")
_SCRIPT = Path(__file__).with_name("official_script.py")


def requirements() -> Path:
    """The pinned versions."""
    return config_folder("suites").parent / "alpaca-eval.txt"


def environment_python(cache: Path, say: Callable[[str], None]) -> Path:
    """The interpreter of the package's environment; it is made on first use, which is announced.

    $EVAL_HARNESS_ALPACA_PYTHON names an interpreter that has the package already.

    Raises:
      UserError: the environment cannot be made; nothing half-made is left.
    """
    if named := os.environ.get("EVAL_HARNESS_ALPACA_PYTHON"):
        return Path(named)
    pins = hashlib.sha256(requirements().read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache / "environments" / f"alpaca-eval-{pins}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.is_file():
        return python
    say(f"alpaca-eval: making its environment in {folder} (once; about 600 MB from the package index)")
    shutil.rmtree(folder, ignore_errors=True)
    steps = (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", *_QUIET, "--no-deps", "-r", str(requirements())],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise UserError(
                "alpaca-eval's environment cannot be made",
                got=last[0][:300] if last else f"exit code {done.returncode}",
                expected="a package index that can be reached",
                remedy="run where it can be, or set EVAL_HARNESS_ALPACA_PYTHON to an interpreter that has it",
            )
    ready.touch()
    return python


def check_official(judge: Judge, texts: int, prompts: int) -> HTTPJudge:
    """Raise UserError for what the package cannot compare."""
    if not isinstance(judge, HTTPJudge):
        raise UserError(
            "--alpaca-official",
            got=f"judge {judge.label}",
            expected="--judge http",
        )
    if texts != prompts:
        raise UserError(
            "--alpaca-official compares one text per prompt",
            got=f"{texts} texts for {prompts} prompts",
            expected="one temperature and one sample",
            remedy="--generation temperatures=0",
        )
    return judge


def run_official(
    pairs: Sequence[Comparison], judge: HTTPJudge, annotator: str, cache: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Let the package judge the pairs, and read back what it says.

    Its judgements are kept under a key of judge, template and annotator, in pieces of ten: what was judged
    before a kill is not asked again, and another judge never meets them.

    Returns:
      win_rate and standard_error in [0, 1], n_total, version, annotations (path);
      length_controlled_win_rate in [0, 1], or why there is none.

    Raises:
      UserError: the package fails; its last line is in the message.
    """
    python = environment_python(cache, say)
    key = sha(json.dumps([judge.settings(), annotator, requirements().read_text()], sort_keys=True))
    folder = cache / "alpaca-official" / key[:24]
    rows = [(p.prompt, p.candidate, p.baseline) for p in pairs]
    task = folder / sha(json.dumps(rows))[:24]
    request = {
        "annotator": annotator,
        "model": judge.model,
        "candidate": [{"instruction": p, "output": c, "generator": "candidate"} for p, c, _ in rows],
        "baseline": [{"instruction": p, "output": b, "generator": "baseline"} for p, _, b in rows],
        "folder": str(folder),
        "task": str(task),
        "annotations": str(folder / "judged.json"),
    }
    write_text(task / "request.json", json.dumps(request))
    say(f"alpaca-eval: {annotator} with judge {judge.model} on {len(pairs)} pairs")
    key_text = os.environ.get(judge.key_env, "").strip() or "none"
    # The key travels in the environment of the one process that needs it and is in no file.
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "OPENAI_API_KEYS": key_text,
        "OPENAI_API_KEY": key_text,
        "OPENAI_API_BASE": judge.url,
        "OPENAI_CLIENT_CONFIG_PATH": str(folder / "none.yaml"),
        "OPENAI_MAX_CONCURRENCY": str(judge.concurrency),
    }
    command = [str(python), str(_SCRIPT), str(task / "request.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    answer = task / "answer.json"
    if done.returncode or not answer.is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise UserError(
            "alpaca-eval failed",
            got=said.replace(key_text, "[key]")[:300],
            expected="a win rate",
            remedy="run the same command again: what it has judged is kept",
        )
    result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return result


def official_facts(result: dict[str, Any], annotator: str) -> list[tuple[str, str]]:
    """Lines for the report."""
    name = f"official alpaca-eval {result['version']} ({annotator})"
    rate = f"{result['win_rate']:.4f}, error {result['standard_error']:.4f}, {result['n_total']} judged"
    controlled = result["length_controlled_win_rate"]
    shown = f"{controlled:.4f}" if isinstance(controlled, float) else str(controlled)
    return [(f"{name}: win rate", rate), (f"{name}: length-controlled win rate", shown)]
