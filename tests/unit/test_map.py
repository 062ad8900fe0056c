"""The drawing and the tree name files that exist, and leave out no folder of the plugin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sparsepo_plugin"
DRAWING = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TREE = GUIDE.split("## The tree")[1].split("```")[1]
WALKS = [
    line for line in GUIDE.split("## What a newcomer opens")[1].splitlines() if "sparsepo_plugin/" in line
]


FOLDERS = ("sparsepo_plugin", "eval_harness", "study", "benchmarks", "configs", "docs", "tests")
FILES = [f"/{path.relative_to(ROOT)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")]
FILES += [f"/{path.name}" for path in ROOT.glob("*.*")]


def exists(name: str) -> bool:
    """Whether the project has a file whose path ends in the name."""
    return any(file.endswith(f"/{name}") for file in FILES)


@pytest.mark.parametrize("text", [DRAWING, GUIDE], ids=["how-it-works", "CONTRIBUTING"])
def test_every_file_that_is_named_exists(text):
    plain = re.sub(r"[\w/]*(NAME|SUITE)[\w/.]*", "", text)
    # Not what is part of a web address, a generated file or a placeholder.
    names = set(re.findall(r"(?<![\w/.:-])[\w/-]+\.(?:py|md|yaml)\b", plain))
    assert len(names) > 8
    assert not {name for name in names if not exists(name)}


def test_every_folder_of_the_plugin_has_its_line_in_the_tree():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert len(folders) > 8
    assert not {name for name in folders if f"{name}/" not in TREE}
    words = set(re.findall(r"\w+", TREE))
    assert not {path.stem for path in PACKAGE.glob("[a-z]*.py")} - words


@pytest.mark.parametrize("line", WALKS, ids=[line.split("|")[1].strip() for line in WALKS])
def test_a_newcomers_walk_is_short_and_its_files_exist(line):
    task, files = (cell.strip() for cell in line.split("|")[1:3])
    names = re.findall(r"`([\w/]+\.py)`", files)
    assert len(names) <= (10 if "follow" in task else 5)
    assert all((ROOT / name).is_file() for name in names)
