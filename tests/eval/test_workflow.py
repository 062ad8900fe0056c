"""The shipped workflow, every `run:` block verbatim: for a pass, for a regression, and for an error."""

import json
import os
import sys
import tarfile

import pytest
import yaml

from .actions import Runner, evaluate, run_steps, run_workflow
from .conftest import REPO
from .test_gate_models import noisy_copy

pytestmark = pytest.mark.slow
WORKFLOW = ".github/workflows/eval-gate.yml"
ACTION = ".github/actions/eval-gate/action.yml"
RUN_BLOCKS = [
    "Install the harness",
    "Name the artifact",
    "Install",
    "Get the checkpoint and its baseline",
    "Check the gates",
    "Run the suite",
    "Gate",
    "Summary",
]


# Stands in for the hub's command line: the arguments must be right, then the model is there.
HF = """#!/bin/sh
test "$*" = "download owner/policy --revision v1 --local-dir eval-gate/models/checkpoint" || exit 9
mkdir -p "$6"
cp -r {model}/. "$6"
"""


@pytest.fixture
def runner(tmp_path):
    """A workspace whose PATH holds eval-harness and python of this environment."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, code in (("eval-harness", 'exec "$PY" -m eval_harness "$@"'), ("python", 'exec "$PY" "$@"')):
        body = code.replace("$PY", sys.executable)
        (tools / name).write_text(f"#!/bin/sh\nPYTHONPATH={REPO} {body}\n")
        (tools / name).chmod(0o755)
    (tmp_path / "work").mkdir()
    return Runner(REPO, tmp_path / "work", f"{tools}:{os.environ['PATH']}")


@pytest.fixture
def inputs(choice_tasks, trained, tmp_path):
    return {
        "checkpoint": str(trained),
        "baseline": str(trained),
        "suites": f"reasoning:{choice_tasks / 'tasks.yaml'}",
        "gates": str(choice_tasks / "gates.yaml"),
        "data": str(choice_tasks / "data.yaml"),
        "arguments": f"--device cpu --dtype float32 --batch-size 64 --cache {tmp_path / 'cache'}",
    }


def shown(runner):
    return "\n".join(f"{name}: {code}\n{text}" for name, code, text in runner.log)


def test_a_checkpoint_as_good_as_its_baseline_passes(runner, inputs, trained, tmp_path):
    (tmp_path / "bin" / "hf").write_text(HF.format(model=trained))
    (tmp_path / "bin" / "hf").chmod(0o755)
    inputs["checkpoint"] = "hf:owner/policy@v1"
    outputs = run_workflow(runner, WORKFLOW, {**inputs, "checkpoint-artifact": "policy"})
    assert not runner.failed, shown(runner)
    assert [name for name, _, _ in runner.log] == RUN_BLOCKS
    assert outputs["verdict"] == "KEPT"
    assert "## ✅ KEPT" in runner.summary
    used = dict(runner.used)
    assert used["actions/download-artifact@v4"] == {"name": "policy", "path": inputs["checkpoint"]}
    uploaded = [runner.workspace / line for line in used["actions/upload-artifact@v4"]["path"].split()]
    assert [path.is_dir() for path in uploaded] == [True, True]
    assert (uploaded[0] / "report.html").is_file()


def test_a_regression_fails_the_job_and_still_reports(runner, inputs, trained, tmp_path):
    noisy = noisy_copy(trained, tmp_path / "noisy", 1.0)
    with tarfile.open(tmp_path / "noisy.tar.gz", "w:gz") as archive:
        archive.add(noisy, arcname="some/folder")
    address = (tmp_path / "noisy.tar.gz").as_uri()
    outputs = run_workflow(runner, WORKFLOW, {**inputs, "checkpoint": address})
    assert runner.failed
    assert [name for name, _, _ in runner.log] == RUN_BLOCKS, shown(runner)
    assert [code for _, code, _ in runner.log] == [0, 0, 0, 0, 0, 0, 1, 0], shown(runner)
    assert outputs["verdict"] == "REGRESSED"
    assert "## ❌ REGRESSED" in runner.summary
    report = json.loads((runner.workspace / "eval-gate/report/report.json").read_text())
    assert report["exit_code"] == 1
    assert "actions/download-artifact@v4" not in dict(runner.used)
    assert "actions/upload-artifact@v4" in dict(runner.used)


def test_a_missing_checkpoint_is_no_pass(runner, inputs):
    outputs = run_workflow(runner, WORKFLOW, {**inputs, "checkpoint": "nowhere"})
    assert runner.failed
    assert [name for name, code, _ in runner.log if code] == ["Get the checkpoint and its baseline"]
    assert "no such folder: nowhere" in shown(runner)
    assert outputs["verdict"] == "ERROR"
    assert "no decision" in runner.summary


def artifact(tmp_path, **inputs):
    """The name under which a caller's run uploads, without running anything else."""
    (tmp_path / "work").mkdir(exist_ok=True)
    runner = Runner(REPO, tmp_path / "work", os.environ["PATH"])
    action = yaml.safe_load((REPO / ACTION).read_text())
    given = {name: spec.get("default", "") for name, spec in action["inputs"].items()} | inputs
    context = {"inputs": given, "github": {"job": "gate"}, "strategy": {"job-index": "0"}, "steps": {}}
    run_steps(runner, action["runs"]["steps"][:1], context)
    upload = next(step for step in action["runs"]["steps"] if "upload-artifact" in step.get("uses", ""))
    return evaluate(upload["with"]["name"], context)


def test_jobs_of_a_matrix_upload_under_names_of_their_own(tmp_path):
    base = {"checkpoint": "policy", "baseline": "start"}
    others = [
        {},
        {"suites": "win_rate"},
        {"checkpoint": "policy 2"},
        {"arguments": "--seed 1"},
        {"gates": "g"},
    ]
    others += [{"artifact-key": "policy-a"}, {"baseline": "start\nwin_rate"}]
    names = [artifact(tmp_path, **{**base, **more}) for more in others]
    assert len(set(names)) == len(names)
    assert all(name.startswith("eval-gate-") for name in names)
    assert artifact(tmp_path, **base) == names[0]  # the same job again, the same name
    assert artifact(tmp_path, **base, artifact="mine") == "mine"


def test_what_tells_two_callers_apart_reaches_the_name():
    workflow = yaml.safe_load((REPO / WORKFLOW).read_text())
    gate = workflow["jobs"]["gate"]["steps"][-1]["with"]
    declared = set(workflow[True]["workflow_call"]["inputs"])
    told = " ".join(gate.values())
    assert {name for name in declared if f"inputs.{name} " not in told} <= {"harness-repository"}


def test_values_never_become_part_of_a_script():
    for file, steps in ((WORKFLOW, ("jobs", "gate", "steps")), (ACTION, ("runs", "steps"))):
        found = yaml.safe_load((REPO / file).read_text())
        for key in steps:
            found = found[key]
        blocks = [step for step in found if "run" in step]
        assert blocks
        assert all("${{" not in step["run"] for step in blocks)
        # a composite step has no default shell
        assert file == WORKFLOW or all(step["shell"] == "bash" for step in blocks)
