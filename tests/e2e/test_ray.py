"""OpenRLHF's Ray actor group on this machine: the numbers of torchrun, and a clean end when an actor dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from training import FP32, PENALTIES, SPARSE, environment

pytestmark = pytest.mark.slow
TWO = ["--ray", "--ray.gpus_per_node", "2"]


def start(flags, folder):
    command = [
        sys.executable,
        "-m",
        "sparsepo_plugin.train_dpo",
        *flags,
        "--ckpt.output_dir",
        str(folder / "out"),
    ]
    env = environment(RAY_raylet_start_wait_time_s="180", RAY_USAGE_STATS_ENABLED="0")
    return subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        cwd=folder,
    )


def actors(process):
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "TrainActor" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def metrics(folder):
    file = folder / "out/metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.is_file() else []
    return [row for row in map(json.loads, lines) if row["split"] == "train"]


@pytest.fixture(scope="module")
def ray_run(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    process = start([*inputs.flags(), *FP32, *SPARSE, *PENALTIES, "--train.max_epochs", "2", *TWO], folder)
    out, _ = process.communicate(timeout=400)
    return process.returncode, out, folder


def test_two_actors_give_the_losses_of_two_torchrun_processes(ray_run, double_runs):
    code, out, folder = ray_run
    assert code == 0, out[-3000:]
    want = double_runs["two"].losses()
    assert [row["loss"] for row in metrics(folder)] == pytest.approx(want, abs=1e-5)
    assert json.loads((folder / "out/sparsepo_run.json").read_text())["processes"] == 2
    assert (folder / "out/sparsepo_masks.safetensors").is_file()


def test_logs_and_progress_reach_the_driver(ray_run):
    assert "train:" in ray_run[1]


def test_an_actor_that_is_killed_ends_the_run_and_leaves_no_other(inputs, tmp_path):
    process = start([*inputs.flags(), *FP32, *SPARSE, "--train.max_epochs", "400", *TWO], tmp_path)
    deadline = time.time() + 300
    while len(metrics(tmp_path)) < 3:
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.time() < deadline
        time.sleep(0.2)
    group = actors(process)
    assert len(group) == 2
    os.kill(group[1].pid, signal.SIGKILL)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    (line,) = [line for line in out.splitlines() if line.startswith("error: ")]
    assert "an actor died, the others were ended" in line
    assert not [actor for actor in group if actor.is_running() and actor.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ray.gpus_per_node", "0"], "expected at least 1"),
        (["--ray.address", "127.0.0.1:1"], "no Ray cluster can be reached"),
        (["--sparsepo.maks", "common"], "did you mean --sparsepo.masks"),
    ],
)
def test_bad_input_is_refused_in_one_line(flags, message, inputs, tmp_path):
    process = start([*inputs.flags(), *FP32, *SPARSE, "--ray", *flags], tmp_path)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 2, out[-2000:]
    assert message in out
    assert "Traceback" not in out
    assert not (tmp_path / "out").exists()
