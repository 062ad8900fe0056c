"""Import direction, and that the package loads where no training framework is installed."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import sparsepo_plugin

ROOT = Path(sparsepo_plugin.__file__).parent
HARNESS = ROOT.parent / "eval_harness"
FRAMEWORKS = {
    "openrlhf",
    "trl",
    "axolotl",
    "deepspeed",
    "ray",
    "transformers",
    "datasets",
    "accelerate",
    "peft",
}
# A <- B: B imports A. Everything of the package that a core module may import, itself included.
LOW = {"types", "errors"}
ALLOWED = {
    "errors.py": set(),
    "swap.py": set(),
    "types.py": set(),
    "token_stats.py": {"types"},
    "window.py": {"token_stats"},
    "states.py": {"activations"},
    "fused": {"fused", "token_stats"},
    "metrics.py": {"types"},
    "scores.py": {"types"},
    "activations.py": LOW,
    "masks": {*LOW, "activations", "masks"},
    "config.py": {"errors"},
    "main.py": {"errors"},
    "own_files.py": {"errors"},
    "options.py": {*LOW, "masks"},
    "registry.py": {*LOW, "options"},
    "losses": {*LOW, "activations", "losses", "masks", "options", "registry", "scores"},
    "checkpoint.py": {*LOW, "__version__", "options", "registry"},
    "loss_table.py": {"checkpoint", "errors", "options", "registry"},
}
CORE = sorted(ALLOWED)
# Edges that show what a training left; nothing of the core or the adapters imports them.
REPORTS = {"reports.py", "run_files.py", "view", "plots", "sweep"}


def sources(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py")) if root.is_dir() else [root]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at any depth; ``from a import b`` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the direction"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_no_framework(name):
    for path in sources(ROOT / name):
        tops = {module.split(".")[0] for module in imported(path)}
        assert not tops & FRAMEWORKS, path
        assert (
            tops
            & {"sparsepo_plugin", *sys.stdlib_module_names, "torch", "triton", "yaml", "safetensors", "tqdm"}
            == tops
        ), path


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_only_what_lies_below_it(name):
    for path in sources(ROOT / name):
        own = {module.split(".")[1] for module in imported(path) if module.startswith("sparsepo_plugin.")}
        assert own <= ALLOWED[name], path


def test_every_module_of_the_package_is_either_core_or_known_to_be_an_edge():
    edges = {"__init__.py", "__main__.py", "adapters", "cli.py", "demo", "train_dpo.py"} | REPORTS
    names = {path.name for path in ROOT.iterdir() if path.name != "__pycache__"}
    assert names == {*CORE, *edges}


def test_adapters_do_not_import_what_lies_above_them():
    above = tuple(f"sparsepo_plugin.{name.removesuffix('.py')}" for name in ("cli", "train", *REPORTS))
    for path in sources(ROOT / "adapters"):
        assert not {module for module in imported(path) if module.startswith(above)}, path


def test_reports_lie_above_each_other_in_one_order():
    order = ("run_files.py", "view", "plots", "sweep", "reports.py")
    assert set(order) == REPORTS
    for place, name in enumerate(order):
        above = {later.removesuffix(".py") for later in order[place + 1 :]}
        for path in sources(ROOT / name):
            own = {module.split(".")[1] for module in imported(path) if module.startswith("sparsepo_plugin.")}
            assert not own & above, path


def test_only_the_adapters_name_a_trainer():
    trainers = {"openrlhf", "trl", "axolotl", "deepspeed", "ray"}
    for path in sources(ROOT):
        if ROOT / "adapters" not in path.parents:
            assert not {module.split(".")[0] for module in imported(path)} & trainers, path


def test_training_and_evaluation_never_import_each_other():
    assert HARNESS.is_dir()
    for root, other in ((ROOT, "eval_harness"), (HARNESS, "sparsepo_plugin")):
        for path in sources(root):
            assert other not in {module.split(".")[0] for module in imported(path)}, path


def test_neither_package_imports_the_benchmarks():
    for root in (ROOT, HARNESS):
        for path in sources(root):
            assert "benchmarks" not in {module.split(".")[0] for module in imported(path)}, path


def test_no_folder_or_file_is_a_drawer_for_everything():
    for root in (ROOT, HARNESS):
        for path in [root, *root.rglob("*")]:
            assert path.stem not in {"utils", "util", "helpers", "common", "misc", "scripts"}, path
    assert not (ROOT.parent / "scripts").exists()


BLOCKED = textwrap.dedent("""
    import sys

    class Blocker:
        names = {"openrlhf", "trl", "axolotl", "deepspeed", "ray", "vllm", "flash_attn"}
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in self.names:
                raise ImportError(f"{name} is blocked")

    sys.meta_path.insert(0, Blocker())
    import sparsepo_plugin, sparsepo_plugin.losses, sparsepo_plugin.cli, sparsepo_plugin.train_dpo
    import sparsepo_plugin.checkpoint, sparsepo_plugin.masks.learned
    import sparsepo_plugin.forward.statistics.reference
    import sparsepo_plugin.configured_loss
    assert not {name.split(".")[0] for name in sys.modules} & Blocker.names
    assert "transformers" not in sys.modules
    try:
        import openrlhf
    except ImportError:
        pass
    else:
        raise SystemExit("the blocker does not work")
    raise SystemExit(sparsepo_plugin.cli.main(["ls"]))
""")


def test_the_package_loads_and_lists_its_losses_without_any_framework():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "sparsepo: SparsePO" in done.stdout
    assert "dpo: DPO" in done.stdout
