"""The vllm backend for real, on a tiny model: run by `make test-vllm`, which builds an environment for it.

Skipped where vllm is not installed; SPARSEPO_REQUIRE_VLLM=1, set by the make target, makes that a failure.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

from eval_harness.run.folder import read_items, read_result

from . import tiny
from .conftest import REPO

TASKS = "leaderboard_bbh_boolean_expressions,leaderboard_gpqa_main,ifeval"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same model through hf and vllm, and vllm a second time over the same cache."""
    if importlib.util.find_spec("vllm") is None:
        assert os.environ.get("SPARSEPO_REQUIRE_VLLM") != "1", "vllm is not installed"
        pytest.skip("vllm is not installed: make test-vllm")
    folder = tmp_path_factory.mktemp("vllm")
    # vllm's CPU attention knows a few head sizes only: 128 / 2 heads = 64. No special tokens in the answers:
    # lm-eval keeps them in vllm's text and drops them from hf's.
    model = tiny.make_model(folder / "model", hidden=128, heads=2, context=2048, specials=False)
    data = tiny.make_data(folder / "data")
    env = {**os.environ, "PYTHONPATH": str(REPO), "VLLM_CPU_KVCACHE_SPACE": "1"}
    common = [
        "run",
        "--model",
        model,
        "--tasks",
        TASKS,
        "--data",
        data,
        "--cache",
        folder / "cache",
        "--dtype",
        "float32",
        "--punkt-standin",
        "--generation",
        "max_gen_toks=16",
    ]
    vllm = ["--backend", "vllm", "--engine", "enforce_eager=true", "--batch-size", "auto"]
    more = {"hf": [], "vllm": vllm, "again": vllm}
    for name, extra in more.items():
        command = [sys.executable, "-m", "eval_harness", *common, "--out", folder / name, *extra]
        done = subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_vllm_gives_the_scores_of_hf(runs):
    hf, vllm = read_result(runs / "hf"), read_result(runs / "vllm")
    assert vllm.settings["backend"] == "vllm"
    assert any(name.startswith("vllm") for name in vllm.versions)
    assert [(s.task, s.metric, s.value) for s in vllm.scores] == [
        (s.task, s.metric, s.value) for s in hf.scores
    ]


def test_vllm_gives_the_log_probabilities_and_texts_of_hf(runs):
    for one, two in zip(read_items(runs / "hf"), read_items(runs / "vllm"), strict=True):
        assert one.prompt_hash == two.prompt_hash
        for a, b in zip(one.outputs, two.outputs, strict=True):
            if isinstance(a, str):
                # vllm withholds a last character whose bytes are incomplete; hf shows it as U+FFFD
                assert a.rstrip("\ufffd") == b.rstrip("\ufffd")
            else:
                assert a[0] == pytest.approx(b[0], abs=2e-3)  # nats; other kernels, same float32 weights


def test_backends_do_not_share_answers_and_a_second_run_asks_nothing(runs):
    first, second = read_result(runs / "vllm"), read_result(runs / "again")
    assert first.counts["reused"] == 0
    assert second == first
