"""kill -9 in mid-run, run again: no finished item is asked twice, the numbers are an unbroken run's."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

from eval_harness.run.folder import read_items, read_result

from . import tiny
from .conftest import REPO

# Slows every batch down, so that the kill surely hits the middle; the numbers are not touched.
SLOW = """
import sys, time
from eval_harness.models import answer_cache as resume
commit = resume.AnswerCache.commit
def slow(self):
    commit(self)
    time.sleep(0.25)
if sys.argv[1] == "slow":
    resume.AnswerCache.commit = slow
from eval_harness.cli.app import main
sys.exit(main(sys.argv[2:]))
"""


def command(mode, model, data, cache, out):
    tasks = "gsm8k,leaderboard_bbh_boolean_expressions,leaderboard_bbh_navigate,ifeval"
    args = [
        "run",
        "--model",
        model,
        "--suites",
        "reasoning:quick",
        "--tasks",
        tasks,
        "--data",
        data,
        "--cache",
        cache,
        "--out",
        out,
        "--punkt-standin",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--batch-size",
        "4",
        "--generation",
        "max_gen_toks=12",
    ]
    return [sys.executable, "-c", SLOW, mode, *map(str, args)]


def stored(cache):
    path = cache / "answers.sqlite"
    if not path.is_file():
        return 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10) as db:
        try:
            return db.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
        except sqlite3.OperationalError:  # not created yet
            return 0


def test_kill_and_continue(model_a, tmp_path):
    data = tiny.make_data(tmp_path / "data", n=24)
    paths = os.pathsep.join([str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    cache, out = tmp_path / "cache", tmp_path / "out"
    kills = []
    for least in (12, 60):  # once among generated answers, once among log-probabilities
        process = subprocess.Popen(
            command("slow", model_a, data, cache, out),
            env=env,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while stored(cache) < least:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "no answers arrived"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills.append(stored(cache))
        # What held the folder stays, and holds nothing any more.
        assert [path.name for path in out.iterdir()] == [".eval-harness.lock"]
    done = subprocess.run(
        command("fast", model_a, data, cache, out), env=env, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not (out / ".eval-harness.lock").exists()
    counts = read_result(out).counts
    assert counts["reused"] == kills[-1]
    assert counts["computed"] == counts["requests"] - kills[-1]
    assert stored(cache) == counts["requests"]
    whole = tmp_path / "whole"
    done = subprocess.run(
        command("fast", model_a, data, tmp_path / "c2", whole), env=env, check=False, capture_output=True
    )
    assert done.returncode == 0
    assert read_items(out) == read_items(whole)  # every answer, to the last bit
    assert read_result(out).scores == read_result(whole).scores
