"""Imports: the package is light, and knows nothing of the plugin."""

import ast
import subprocess
import sys

import pytest

from .conftest import REPO

HEAVY = ["torch", "transformers", "lm_eval", "datasets", "vllm", "numpy", "nltk", "peft", "scipy", "jinja2"]
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
"""
FILES = sorted((REPO / "eval_harness").rglob("*.py"))


@pytest.mark.parametrize(
    "args", [["ls"], ["ls", "--tasks"], ["--help"], ["run", "--help"], ["gate", "--help"]]
)
def test_works_without_any_heavy_package(args):
    code = BLOCK.format(names=HEAVY) + f"from eval_harness.cli.app import main\nsys.exit(main({args!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_meta_works_without_any_heavy_package(model_a):
    import json

    code = (
        BLOCK.format(names=HEAVY)
        + f"from eval_harness.cli.app import main\nsys.exit(main(['meta', {str(model_a)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {
        "kind",
        "label",
        "weights",
        "tokenizer",
        "chat_template",
        "adapter",
    }


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(REPO)) for p in FILES])
def test_layers_and_sizes(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 250
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not [n for n in names if n.split(".")[0] == "sparsepo_plugin"]
    pure = {"types.py", "normalise.py", "scores.py", "converters.py", "errors.py"}
    pure |= {"compare.py", "decide.py", "gates.py", "verdicts.py", "wording.py"}
    if path.name in pure:
        assert not [name for name in HEAVY if f"import {name}" in source]
