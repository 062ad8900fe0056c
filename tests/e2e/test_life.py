"""A run's life as a user lives it: signals, a second writer, damaged checkpoints, leftovers, a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training import FP32, SPARSE, environment, run_many
from transformers import AutoModelForCausalLM

from sparsepo_plugin import checkpoint
from sparsepo_plugin.adapters.openrlhf import checkpoints
from sparsepo_plugin.demo.language import generate_pairs, write_jsonl
from sparsepo_plugin.run_folder.lock import LOCK

pytestmark = pytest.mark.slow
SCRIPT = Path(sys.executable).with_name("sparsepo")
LORA = ["--ds.lora.rank", "4", "--ds.lora.target_modules", "q_proj", "v_proj"]


@contextlib.contextmanager
def started(argv, folder, processes):
    """A run that has taken 5 steps; killed with all it started where the test leaves it running."""
    command = [SCRIPT, "train", "--processes", str(processes), *argv, "--ckpt.output_dir", str(folder)]
    log = folder.with_suffix(".txt")
    with open(log, "wb") as file:
        run = subprocess.Popen(command, env=environment(), stdout=file, stderr=file, start_new_session=True)
    try:
        metrics, until = folder / "metrics.jsonl", time.monotonic() + 180
        while not metrics.is_file() or metrics.read_text().count("\n") < 5:
            assert run.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until
            time.sleep(0.05)
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        for worker in workers(folder):
            os.kill(worker, signal.SIGKILL)


def workers(folder):
    """Processes that name a folder on their command line, this one's own children or not."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if str(folder).encode() in words and b"sparsepo_plugin.train_dpo" in words:
                found.append(int(process.name))
    return found


@pytest.fixture(scope="module")
def long_run(inputs, tmp_path_factory):
    """Flags of a run that would take minutes."""
    data = tmp_path_factory.mktemp("long") / "pairs.jsonl"
    write_jsonl(generate_pairs(400, 3), data)
    return [
        *inputs.flags(), *FP32, *SPARSE, "--data.dataset", str(data), "--train.max_epochs", "200",
        *("--train.batch_size", "4", "--train.micro_batch_size", "2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("processes", "number", "saves"),
    [(2, signal.SIGTERM, True), (2, signal.SIGINT, False), (1, signal.SIGINT, True)],
)
def test_a_signal_ends_every_process_and_leaves_a_checkpoint(processes, number, saves, long_run, tmp_path):
    out = tmp_path / "out"
    steps = ["--ckpt.path", str(out / "steps"), *(["--ckpt.save_steps", "100000"] if saves else [])]
    with started([*long_run, *steps], out, processes) as run:
        run.send_signal(number)
        assert run.wait(timeout=120) == 128 + number
        assert workers(out) == []
    log = (tmp_path / "out.txt").read_text()
    assert "Traceback" not in log
    lines = [line for line in log.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    taken = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()][-1]
    assert lines[0].startswith(f"error: stopped by {number.name} after step {taken}: ")
    assert not (out / LOCK).exists()
    if saves:
        assert [saved.step for saved in checkpoints.complete(out / "steps")] == [taken]
        assert checkpoints.look(out / "steps").damaged == {}
    else:
        assert "no checkpoint was written, as --ckpt.save_steps asks for none" in lines[0]


def test_processes_end_with_the_one_that_started_them(long_run, tmp_path):
    out = tmp_path / "out"
    with started(long_run, out, 2) as run:
        assert len(workers(out)) == 2
        run.kill()
        run.wait()
        until = time.monotonic() + 60
        while workers(out) and time.monotonic() < until:
            time.sleep(0.2)
        assert workers(out) == []


def test_a_second_run_into_the_folder_is_refused_and_the_first_goes_on(long_run, tmp_path):
    out = tmp_path / "out"
    with started(long_run, out, 1) as run:
        command = [SCRIPT, "train", *long_run, "--ckpt.output_dir", str(out), "--overwrite"]
        second = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
        assert second.returncode == 2
        (line,) = second.stderr.splitlines()
        assert line.startswith(f"error: {out}: another run is writing there")
        before = (out / "metrics.jsonl").read_text().count("\n")
        time.sleep(1)
        assert run.poll() is None
        assert (out / "metrics.jsonl").read_text().count("\n") > before


@pytest.fixture(scope="module")
def lives(inputs, tmp_path_factory):
    """Runs that end well, one after the other in one process."""
    folder = tmp_path_factory.mktemp("lives")
    steps = ["--ckpt.save_steps", "1", "--ckpt.max_num", "9", "--train.max_epochs", "2"]
    common = [*inputs.flags(), *FP32]
    model = ["--model.model_name_or_path", str(gpt2_model(inputs, folder))]
    gpt2 = [*inputs.flags("gpt2"), *FP32, *SPARSE, *model]
    runs = {
        "whole": [*common, *SPARSE, *steps, "--ckpt.path", str(folder / "whole/steps")],
        "gpt2": gpt2,
        "gpt2 dropout": [*gpt2, "--model.dropout"],
        "adapter": [*common, *SPARSE, *LORA],
        "dpo": [*common, "--loss", "dpo"],
    }
    return run_many(folder, runs)


def gpt2_model(inputs, folder):
    """GPT-2 as it is published: with dropout."""
    target = folder / "gpt2-with-dropout"
    shutil.copytree(inputs.model("gpt2"), target)
    content = json.loads((target / "config.json").read_text())
    rates = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.1)
    (target / "config.json").write_text(json.dumps({**content, **rates}))
    return target


def test_equal_weights_have_no_kl_at_the_first_step(lives):
    quiet, noisy = lives["gpt2"], lives["gpt2 dropout"]
    assert quiet.code == noisy.code == 0, quiet.err[-2000:] + noisy.err[-2000:]
    assert quiet.lines("train")[0]["chosen_sequence_kl"] == 0
    assert noisy.lines("train")[0]["chosen_sequence_kl"] > 0.001
    said = (
        "dropout is off in the policy (attn_pdrop 0.1, embd_pdrop 0.1, resid_pdrop 0.1 in its configuration)"
    )
    assert quiet.out.count(said) == 1
    assert "dropout is off" not in noisy.out
    saved = json.loads((quiet.folder / "config.json").read_text())
    assert saved["attn_pdrop"] == saved["resid_pdrop"] == 0.1


def test_an_adapters_folder_opens_by_auto_model_from_anywhere(lives, inputs, tmp_path, monkeypatch):
    run = lives["adapter"]
    assert run.code == 0, run.err[-2000:]
    monkeypatch.chdir(tmp_path)
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        trained = AutoModelForCausalLM.from_pretrained(run.folder).eval()(ids).logits
        start = AutoModelForCausalLM.from_pretrained(inputs.model()).eval()(ids).logits
    assert not torch.equal(trained, start)


def test_a_run_that_replaces_an_adapter_leaves_nothing_of_it(lives, inputs, tmp_path):
    """The policy of a dpo run opens as itself, not under the adapter that lay there before."""
    reused, alone = tmp_path / "dpo", lives["dpo"].folder
    shutil.copytree(lives["adapter"].folder, reused)
    argv = [*inputs.flags(), *FP32, "--loss", "dpo"]
    refused = run_many(tmp_path, {"dpo": argv})["dpo"]
    assert refused.code == 2
    assert f"--ckpt.output_dir {reused}: got a folder with a finished run" in refused.err
    assert (reused / "adapter_config.json").exists()
    replaced = run_many(tmp_path, {"dpo": [*argv, "--overwrite"]})["dpo"]
    assert replaced.code == 0, replaced.err[-2000:]
    assert {path.name for path in reused.iterdir()} == {path.name for path in alone.iterdir()}
    assert not (reused / checkpoint.RECORD).exists()
    one, other = (load_file(place / "model.safetensors") for place in (reused, alone))
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert "overwrite" not in (reused / "sparsepo_config.yaml").read_text()


def damage_and_resume(lives, inputs, tmp_path, damage):
    shutil.copytree(lives["whole"].folder, tmp_path / "whole")
    damage(tmp_path / "whole")
    argv = [*inputs.flags(), *FP32, *SPARSE, "--ckpt.save_steps", "1", "--ckpt.max_num", "9"]
    argv += ["--train.max_epochs", "2", "--ckpt.load_enable", "--ckpt.path", str(tmp_path / "whole/steps")]
    return run_many(tmp_path, {"whole": argv})["whole"]


def cut(name):
    return lambda run: os.truncate(next((run / "steps/global_step6").glob(name)), 100)


def lose(name):
    return lambda run: next((run / "steps/global_step6").glob(name)).unlink()


DAMAGE = {
    "model": (cut("*model_states.pt"), "model_states.pt has 100 bytes, expected"),
    "optimizer": (lose("*optim_states.pt"), "optim_states.pt is missing"),
    "random state": (cut("random_0.pt"), "random_0.pt has 100 bytes, expected"),
    "marker": (cut(checkpoints.COMPLETE), f"{checkpoints.COMPLETE} cannot be read"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_resume_goes_back_to_the_last_whole_checkpoint(what, lives, inputs, tmp_path):
    damage, said = DAMAGE[what]
    resumed = damage_and_resume(lives, inputs, tmp_path, damage)
    assert resumed.code == 0, resumed.err[-2000:]
    (line,) = [line for line in resumed.out.splitlines() if "is damaged" in line]
    assert line.startswith(f"{tmp_path / 'whole/steps/global_step6'} is damaged: ")
    assert said in line
    assert line.endswith("going back to global_step5")
    assert resumed.losses() == lives["whole"].losses()
    assert checkpoints.look(tmp_path / "whole/steps").damaged == {}


def test_damaged_metrics_do_not_stop_a_run(lives, inputs, tmp_path):
    def damage(run):
        lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        (run / "metrics.jsonl").write_bytes(b"".join([*lines[:2], b'{"step": \xff\n', *lines[3:5]]))

    resumed = damage_and_resume(lives, inputs, tmp_path, damage)
    assert resumed.code == 0, resumed.err[-2000:]
    assert "metrics.jsonl was cut or damaged: 4 lines up to step 5 are kept" in resumed.out
    assert [row["step"] for row in resumed.lines("train")] == [1, 2, 4, 5]


def test_a_resume_without_any_whole_checkpoint_is_one_line(lives, inputs, tmp_path):
    def damage(run):
        for file in (run / "steps").glob("*/random_0.pt"):
            file.unlink()

    resumed = damage_and_resume(lives, inputs, tmp_path, damage)
    assert resumed.code == 2
    (line,) = resumed.err.splitlines()
    assert "global_step6: random_0.pt is missing, and no other checkpoint there is whole" in line


@pytest.fixture
def small_disk(tmp_path):
    """A disk that is smaller than a policy and its checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_policy_is_not_lost_where_the_disk_has_filled_up(inputs, small_disk, tmp_path):
    """It is said in one line where the model is instead."""
    argv = [*inputs.flags(), *FP32, *SPARSE, "--ckpt.output_dir", str(small_disk / "out")]
    rest = small_disk / "rest"
    # Metrics still fit, the model does not: another program has taken the room meanwhile.
    script = (
        "import sys, shutil; from sparsepo_plugin import train_dpo\n"
        "from sparsepo_plugin.adapters.openrlhf import saving\n"
        "kept = saving.obstacle\n"
        "def obstacle(folder, size):\n"
        f"    free = shutil.disk_usage({str(small_disk)!r}).free\n"
        f"    open({str(rest)!r}, 'wb').write(bytes(max(0, free - 80000)))\n"
        "    return kept(folder, size)\n"
        "saving.obstacle = obstacle\n"
        "sys.exit(train_dpo.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, *argv]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 1, done.stderr[-2000:]
    line = done.stderr.replace("\r", "\n").splitlines()[-1]
    assert line.startswith(f"error: {small_disk / 'out'}: ")
    rescued = Path(line.split("the model is in ")[1].split(" instead")[0])
    assert rescued.parent == tmp_path
    AutoModelForCausalLM.from_pretrained(rescued)
    assert (rescued / checkpoint.WEIGHTS).exists()


def test_a_checkpoint_that_does_not_fit_stops_the_run_in_one_line(inputs, small_disk, tmp_path):
    argv = [*inputs.flags(), *FP32, *SPARSE, "--train.max_epochs", "2", "--ckpt.save_steps", "1"]
    argv += ["--ckpt.max_num", "9", "--ckpt.path", str(small_disk / "steps")]
    run = run_many(tmp_path, {"out": argv})["out"]
    assert run.code == 1
    assert "Traceback" not in run.err
    line = run.err.replace("\r", "\n").splitlines()[-1]
    assert "the checkpoint cannot be written (" in line
    last = checkpoints.look(small_disk / "steps").saved
    assert f"{last.tag} is kept: make room, then go on with --resume" in line
