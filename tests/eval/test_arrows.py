"""Which room of the harness may import which: A <- B reads "B imports A"; no circle, no arrow upwards.

errors <- {types, files} <- stats <- gate
    errors <- {types, files} <- models <- {judges, reasoning, win_rate, faithfulness} <- run.runner <- cli
"""

import ast
from pathlib import Path

import pytest

from .conftest import REPO

ROOT = REPO / "eval_harness"
BASE = {"errors", "types", "files"}
# What the files of a room may import, the room itself apart; of two rooms that fit a file the longer holds.
ALLOWED = {
    "errors": set(),
    "types": set(),
    "files": {"errors"},
    "stats": set(),
    "models": BASE,
    "gate": {*BASE, "stats"},
    "gate.foreign": {*BASE, "stats", "gate"},
    # Two paths to a decision: the public function reads runs of ours and of others.
    "gate.paths": {*BASE, "gate", "gate.foreign", "run.folder"},
    "judges": {*BASE, "models"},
    # What a suite is made of; the runner alone lies above the suites, which it knows by their registry only.
    "run.folder": BASE,
    "run.preset": {*BASE, "models"},
    "run.job": {*BASE, "models", "run.preset"},
    "run.registry": {*BASE, "run.job"},
    "reasoning": {*BASE, "models", "stats", "run.preset", "run.job", "run.registry"},
    "win_rate": {*BASE, "models", "stats", "judges", "run.preset", "run.job", "run.registry"},
    "faithfulness": {*BASE, "models", "stats", "judges", "run.preset", "run.job", "run.registry"},
    "run.runner": {*BASE, "models", "run.folder", "run.preset", "run.job", "run.registry"},
    "run.until_decided": {
        *(*BASE, "models", "gate", "run.folder", "run.preset", "run.job", "run.registry", "run.runner"),
    },
    "cli": {
        *(*BASE, "models", "judges", "gate", "gate.paths", "win_rate", "faithfulness"),
        *("run.folder", "run.preset", "run.registry", "run.runner", "run.until_decided"),
    },
}
# Inside the faithfulness suite: scorers know neither each other nor the suite, what they stand on no scorer.
INSIDE_FAITHFULNESS = {
    "text": set(),
    "examples": {"text"},
    "networks": {"examples", "text"},
    "registry": {"examples"},
    "scorers": {"examples", "networks", "registry", "text"},
}
EDGES = {"__init__", "__main__", "cli"}


def imports(path, package):
    """Dotted names under `package` that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import hides its direction"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}.")}


def room(name, rooms):
    """The room of a dotted name, None for the package itself."""
    parts = name.split(".")
    prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((prefix for prefix in prefixes if prefix in rooms), None)


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


FILES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if module(path) not in {"__init__", "__main__", "run.__init__"}
]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_no_arrow_points_upwards(path):
    here = room(module(path), ALLOWED)
    assert here is not None, f"{module(path)}: a new module must be placed in ALLOWED"
    reached = {room(name, ALLOWED) for name in imports(path, "eval_harness")} - {None, here}
    assert reached <= ALLOWED[here], f"{module(path)} imports {sorted(reached - ALLOWED[here])}"


def test_there_is_no_circle_between_rooms():
    order: list[str] = []
    left = dict(ALLOWED)
    while left:
        free = [name for name, below in left.items() if below <= set(order)]
        assert free, f"a circle among {sorted(left)}"
        order += free
        left = {name: below for name, below in left.items() if name not in free}
    assert order.index("stats") < order.index("gate")
    assert order.index("models") < order.index("judges") < order.index("run.runner") + 1 <= order.index("cli")


def test_there_is_no_circle_between_modules():
    """At import time, which a function's own imports do not happen at."""
    graph = {}
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
        graph[module(path)] = {node.module.removeprefix("eval_harness.") for node in nodes}
    left = {name: {other for other in below if other in graph} for name, below in graph.items()}
    while left:
        free = {name for name, below in left.items() if not below}
        assert free, f"a circle among {sorted(left)}"
        left = {name: below - free for name, below in left.items() if name not in free}


@pytest.mark.parametrize("name", sorted(INSIDE_FAITHFULNESS))
def test_scorers_know_neither_each_other_nor_the_suite(name):
    folder = ROOT / "faithfulness" / name
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    for path in (path for path in paths if path.name != "__init__.py"):
        below = {name.split(".")[0] for name in imports(path, "eval_harness.faithfulness")}
        allowed = INSIDE_FAITHFULNESS[name] | ({name} if name != "scorers" else set())
        assert below <= allowed, path


def test_the_gate_knows_no_suite_by_name():
    suites = {path.parent.name for path in ROOT.glob("*/suite.py")}
    assert suites == {"reasoning", "win_rate", "faithfulness"}
    for path in sorted((ROOT / "gate").rglob("*")):
        if path.suffix in (".py", ".html"):
            text = path.read_text(encoding="utf-8")
            # "reasoning" is an English word too: as a name it stands in quotes.
            names = {"win_rate", "faithfulness", "group:", '"reasoning"', "'reasoning'"}
            assert not {name for name in names if name in text}, path


def test_the_top_of_the_package_is_a_dozen_names():
    names = {path.stem for path in ROOT.iterdir() if path.name != "__pycache__"} - EDGES
    assert names == {name.split(".")[0] for name in ALLOWED} - EDGES
    assert len(names | {"cli"}) <= 12


def test_the_arrow_test_sees_an_arrow(tmp_path):
    made = tmp_path / "made.py"
    made.write_text("def f():\n    from eval_harness.run import runner\n    import eval_harness.cli.app\n")
    assert imports(made, "eval_harness") == {"run.runner", "cli.app"}
    assert {room(name, ALLOWED) for name in imports(made, "eval_harness")} == {"run.runner", "cli"}
    assert Path(ROOT / "gate").is_dir()
