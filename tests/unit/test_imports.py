"""Import direction, and that the package loads where no training framework is installed."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import sparsepo_plugin

ROOT = Path(sparsepo_plugin.__file__).parent
HARNESS = ROOT.parent / "eval_harness"
# Lowest first: a module imports from its own floor and from those below it, never from above.
FLOORS = (
    {"types", "errors", "files", "patched", "config"},
    {
        *("options", "registry", "objective", "losses", "masks", "forward"),
        *("metrics", "configured_loss", "checkpoint"),
    },
    {"run_folder"},
    {"adapters"},
    {"train_dpo", "report", "sweep", "demo"},
    {"weigh"},
    {"cli", "__main__"},
)
CORE = set.union(*FLOORS[:3])
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}
CORE_PACKAGES = {"filelock", "safetensors", "sparsepo_plugin", "torch", "tqdm", "triton", "yaml"}
# What a trainer's folder may read of the other folders of adapters/; what lies beside them is for all.
ADAPTERS: dict[str, set[str]] = {
    "pairs": set(),
    "prefix": set(),
    "openrlhf": {"pairs", "prefix"},
    "trl": {"pairs", "prefix"},
    "axolotl": {"pairs", "prefix", "trl"},
}


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


def top(module: str) -> str:
    """The folder or file at the top of the package that a module's dotted name lies in."""
    return module.split(".")[1]


def module_of(path: Path) -> str:
    dotted = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Of every module of the package the modules of the package that it imports."""
    modules = {module_of(path): path for path in sources(ROOT)}
    return {
        module: {found for name in imported(path) if (found := resolve(name, modules))} - {module}
        for module, path in modules.items()
    }


def resolve(name: str, modules: dict[str, Path]) -> str | None:
    """The module that an imported name is, or lies in; None where it is none of the package's."""
    for candidate in (name, name.rpartition(".")[0]):
        if candidate in modules and candidate != "sparsepo_plugin":
            return candidate
    return None


def test_every_module_of_the_package_has_its_floor():
    names = {path.stem for path in ROOT.iterdir() if path.name not in ("__pycache__", "__init__.py")}
    assert names == set(FLOOR_OF), "a new module: say in FLOORS what it may import, and who may import it"


@pytest.mark.parametrize("name", sorted(FLOOR_OF))
def test_nothing_imports_from_a_floor_above_it(name):
    upwards = [
        f"{module} imports {other}"
        for module, others in arrows().items()
        if module != "sparsepo_plugin" and top(module) == name
        for other in others
        if FLOOR_OF[top(other)] > FLOOR_OF[name]
    ]
    assert not upwards


def test_imports_run_in_no_circle():
    graph = arrows()
    # A module can be ordered once all that it imports are: what is left over is a circle.
    ordered: set[str] = set()
    while ready := {module for module in graph.keys() - ordered if graph[module] <= ordered}:
        ordered |= ready
    assert not graph.keys() - ordered


def test_the_package_itself_imports_none_of_its_modules():
    assert not arrows()["sparsepo_plugin"]


def test_the_arrows_are_seen():
    """Of a known import of every kind the walk finds the module."""
    graph = arrows()
    assert "sparsepo_plugin.train_dpo" in graph["sparsepo_plugin.cli"]  # inside a function
    assert "sparsepo_plugin.run_folder.lines" in graph["sparsepo_plugin.run_folder.metrics"]  # from a package
    assert "sparsepo_plugin.types" in graph["sparsepo_plugin.objective"]
    assert sum(map(len, graph.values())) > 200


@pytest.mark.parametrize("name", sorted(CORE))
def test_the_core_imports_no_framework(name):
    for path in sources(ROOT / name if (ROOT / name).is_dir() else ROOT / f"{name}.py"):
        packages = {module.split(".")[0] for module in imported(path)}
        assert packages <= {*CORE_PACKAGES, *sys.stdlib_module_names}, path


def test_a_trainers_adapter_reads_no_other_trainers():
    folders = {path.name for path in (ROOT / "adapters").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(ADAPTERS)
    for module, others in arrows().items():
        if not module.startswith("sparsepo_plugin.adapters."):
            continue
        part = module.split(".")[2]
        used = {other.split(".")[2] for other in others if other.startswith("sparsepo_plugin.adapters.")}
        # What lies beside the folders is shared by all trainers, so it knows none of them.
        allowed = {*ADAPTERS[part], part} if part in ADAPTERS else set()
        assert used & set(ADAPTERS) <= allowed, module


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
    import sparsepo_plugin, sparsepo_plugin.losses.sparsepo, sparsepo_plugin.cli, sparsepo_plugin.train_dpo
    import sparsepo_plugin.checkpoint, sparsepo_plugin.masks.learned
    import sparsepo_plugin.forward.statistics.reference
    import sparsepo_plugin.configured_loss, sparsepo_plugin.adapters.step
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
