"""Just enough of a GitHub runner to execute the shipped workflow: every `run:` block verbatim, in order.

Understood: `if:` of the two forms in use, step outputs, `env`, `with`, and `${{ }}` of inputs, steps, github.
Actions of others are noted, not executed.
"""

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import yaml

KNOWN = {
    "actions/checkout@v4",
    "actions/setup-python@v5",
    "actions/download-artifact@v4",
    "actions/upload-artifact@v4",
}
EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")


@dataclass
class Runner:
    """One job: `log` holds (step, exit code) of executed blocks, `used` the actions with their inputs."""

    repository: Path
    workspace: Path
    path: str
    log: list = field(default_factory=list)
    used: list = field(default_factory=list)
    failed: bool = False

    @property
    def summary(self):
        file = self.workspace / "summary.md"
        return file.read_text(encoding="utf-8") if file.is_file() else ""


def evaluate(text, context):
    """Replace expressions by their values; `a || b` is the first that is not empty."""

    def value(match):
        parts = [part.strip() for part in match.group(1).split("||")]
        found = (part[1:-1] if part.startswith("'") else lookup(part, context) for part in parts)
        return next((text for text in found if text), "")

    return EXPRESSION.sub(value, str(text))


def lookup(path, context):
    found = context
    for part in path.split("."):
        assert part in found or "outputs" in path, f"unknown: {path}"
        found = found.get(part, {})
    return found if isinstance(found, str) else ""


def run_workflow(runner, file, inputs):
    """Run the only job of a reusable workflow; return its outputs."""
    workflow = yaml.safe_load((runner.repository / file).read_text(encoding="utf-8"))
    declared = workflow[True]["workflow_call"]["inputs"]  # YAML 1.1 reads the key `on` as true
    assert set(inputs) <= set(declared)
    given = {name: inputs.get(name, spec.get("default", "")) for name, spec in declared.items()}
    (job,) = workflow["jobs"].values()
    github = {"repository": "owner/name", "job": "gate"}
    context = {"inputs": given, "github": github, "strategy": {"job-index": "0"}, "steps": {}}
    run_steps(runner, job["steps"], context)
    return {name: evaluate(text, context) for name, text in job["outputs"].items()}


def run_steps(runner, steps, context):
    for step in steps:
        condition = step.get("if", "")
        if runner.failed and condition != "always()":
            continue
        if condition not in ("", "always()"):
            name, _, right = condition.partition(" != ")
            assert right == "''", f"unknown condition: {condition}"
            if not lookup(name, context):
                continue
        outputs = run_block(runner, step, context) if "run" in step else use(runner, step, context)
        if "id" in step:
            context["steps"][step["id"]] = {"outputs": outputs}


def use(runner, step, context):
    """Enter a composite action of the repository, note any other."""
    given = {name: evaluate(text, context) for name, text in step.get("with", {}).items()}
    runner.used.append((step["uses"], given))
    if not step["uses"].startswith("./"):
        assert step["uses"] in KNOWN
        return {}
    action = runner.repository / step["uses"].removeprefix("./.eval-harness/") / "action.yml"
    spec = yaml.safe_load(action.read_text(encoding="utf-8"))
    assert set(given) <= set(spec["inputs"])
    inputs = {name: given.get(name, s.get("default", "")) for name, s in spec["inputs"].items()}
    inner = {**context, "inputs": inputs, "steps": {}}
    run_steps(runner, spec["runs"]["steps"], inner)
    return {name: evaluate(s["value"], inner) for name, s in spec["outputs"].items()}


def run_block(runner, step, context):
    """Execute a `run:` block as the runner does, and read its outputs."""
    assert "${{" not in step["run"]
    outputs = runner.workspace / "outputs"
    outputs.write_text("")
    environment = {
        **os.environ,
        "PATH": runner.path,
        "GITHUB_OUTPUT": str(outputs),
        "GITHUB_STEP_SUMMARY": str(runner.workspace / "summary.md"),
        **{name: evaluate(text, context) for name, text in step.get("env", {}).items()},
    }
    script = runner.workspace / "step.sh"
    script.write_text(step["run"])
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
    done = subprocess.run(
        command, cwd=runner.workspace, env=environment, capture_output=True, text=True, check=False
    )
    runner.log.append((step["name"], done.returncode, done.stdout + done.stderr))
    runner.failed = runner.failed or done.returncode != 0
    return dict(line.split("=", 1) for line in outputs.read_text().splitlines())
