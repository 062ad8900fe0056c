"""Texts by the vllm backend for real, on tiny models: run by `make test-vllm`.

Skipped where vllm is not installed; SPARSEPO_REQUIRE_VLLM=1, set by the make target, makes that a failure.
"""

import importlib.util
import json
import os
import random
import subprocess
import sys

import pytest

from eval_harness.run.folder import read_items, read_result

from . import tiny
from .conftest import REPO

pytestmark = pytest.mark.slow
VLLM = ["--backend", "vllm", "--engine", "enforce_eager=true", "--max-length", "512"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two models write through hf, through vllm, and through vllm with other prompts in between."""
    if importlib.util.find_spec("vllm") is None:
        assert os.environ.get("SPARSEPO_REQUIRE_VLLM") != "1", "vllm is not installed"
        pytest.skip("vllm is not installed: make test-vllm")
    folder = tmp_path_factory.mktemp("vllm")
    for seed, name in enumerate(("a", "b")):
        tiny.make_model(folder / name, seed, hidden=128, heads=2, context=2048, specials=False)
    rng = random.Random(0)
    prompts = [tiny.sentence(rng, 4 + n) for n in range(6)]
    more = [p for prompt in prompts for p in (prompt, tiny.sentence(rng, 9))]
    for name, rows in (("few", prompts), ("many", more)):
        lines = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    env = {**os.environ, "PYTHONPATH": str(REPO), "VLLM_CPU_KVCACHE_SPACE": "1"}
    common = ["run", "--suites", "win_rate:own", "--model", folder / "a", "--baseline", folder / "b"]
    common += ["--judge", "length", "--dtype", "float32", "--generation", "max_new_tokens=12"]
    common += ["--generation", "temperatures=[0,1]", "--generation", "samples=2", "--generation", "top_p=0.9"]
    cache = ["--cache", folder / "cache"]
    kinds = {
        "hf": ["few", "--device", "cpu", *cache],
        "vllm": ["few", *VLLM, *cache],
        "again": ["few", *VLLM, *cache],
        "others": ["many", *VLLM, "--no-cache"],
    }
    for name, (prompts_name, *extra) in kinds.items():
        command = [
            sys.executable,
            "-m",
            "eval_harness",
            *common,
            "--prompts",
            folder / f"{prompts_name}.jsonl",
        ]
        command += [*extra, "--out", folder / name]
        done = subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def texts(folder, task):
    """Prompts and texts; vllm withholds a last character of incomplete bytes, hf shows it as U+FFFD."""
    own = [item for item in read_items(folder) if item.task == task]
    return [(item.prompt, item.outputs[0].rstrip("\ufffd").strip()) for item in own]


def test_greedy_texts_are_those_of_hf(runs):
    assert texts(runs / "vllm", "own_t0") == texts(runs / "hf", "own_t0")


def test_a_sampled_text_does_not_depend_on_what_else_is_asked(runs):
    few, many = texts(runs / "vllm", "own_t1"), texts(runs / "others", "own_t1")
    asked = {prompt for prompt, _ in few}
    assert few == [row for row in many if row[0] in asked]
    assert len(set(few)) > 6  # two samples of a prompt differ


def test_a_second_run_asks_nothing(runs):
    assert read_result(runs / "again") == read_result(runs / "vllm")
    assert read_result(runs / "vllm").counts["texts_computed"] == 18
