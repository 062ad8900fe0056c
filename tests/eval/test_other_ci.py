"""GitLab's template and pre-commit's hook: their command lines run, or at least parse."""

import os
import shlex
import subprocess
import sys

import pytest
import yaml

from eval_harness.cli.app import build_parser

from .conftest import REPO
from .foreign_files import KINDS

TEMPLATE = yaml.safe_load((REPO / ".gitlab" / "eval-gate.yml").read_text(encoding="utf-8"))
[HOOK] = yaml.safe_load((REPO / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))


def job(name, **variables):
    """A job with what it extends, and its variables."""
    made, base = TEMPLATE[name], TEMPLATE[TEMPLATE[name]["extends"]]
    return {**base, **made}, {**base.get("variables", {}), **made.get("variables", {}), **variables}


def tool(folder):
    """A folder with `eval-harness` in it, as the tests' interpreter has it."""
    folder.mkdir()
    path = folder / "eval-harness"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m eval_harness "$@"\n')
    path.chmod(0o755)
    return folder


def run(lines, folder, **variables):
    environment = {**os.environ, "PYTHONPATH": str(REPO), **variables}
    environment["PATH"] = f"{tool(folder / 'bin')}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", "\n".join(lines)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("first", "second", "code"), [("a", "b", 1), ("b", "a", 0), ("a", "missing", 2)])
def test_gitlab_gates_results(tmp_path, first, second, code):
    for name in "ab":
        KINDS["jsonl"](tmp_path, name)
    found, variables = job(
        ".eval-gate-results",
        RESULT=f"{first}.jsonl",
        RESULT_BASELINE=f"{second}.jsonl",
        ARGUMENTS="--margin 0.1 --alpha 0.04",
    )
    done = run([*found["before_script"], *found["script"]], tmp_path, **variables)
    assert done.returncode == code, done.stderr
    junit = found["artifacts"]["reports"]["junit"].replace("$OUT", variables["OUT"])
    assert (tmp_path / junit).is_file() == (code != 2)


def test_gitlab_runs_models():
    found, variables = job(".eval-gate", CHECKPOINT="runs/new", BASELINE="runs/old", ARGUMENTS="--limit 5")
    for line in found["script"]:
        for name in sorted(variables, key=len, reverse=True):
            line = line.replace(f"${name}", variables[name])
        words = shlex.split(line)
        assert words[0] == "eval-harness"
        assert "$" not in line
        build_parser().parse_args(words[1:])


@pytest.mark.parametrize(("first", "second", "code"), [("a", "b", 1), ("b", "a", 0)])
def test_the_hook_of_pre_commit(tmp_path, first, second, code):
    for name in "ab":
        KINDS["jsonl"](tmp_path, name)
    assert (HOOK["language"], HOOK["pass_filenames"]) == ("system", False)
    done = run([f"{HOOK['entry']} {first}.jsonl {second}.jsonl --margin 0.1"], tmp_path)
    assert done.returncode == code, done.stderr
