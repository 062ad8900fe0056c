"""Where a run may write: never over what it reads or over another run, and only where the disk takes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from sparsepo_plugin import checkpoint, config
from sparsepo_plugin.adapters.openrlhf import checkpoints, flags, places, saving
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.run_folder import configuration, lock, metrics

LOSS = ["--loss", "sparsepo"]


@pytest.fixture
def parsed(inputs, tmp_path):
    """Arguments of a run into ``out`` below a folder of this test's own."""

    def parse(*argv):
        places = ["--ckpt.output_dir", str(tmp_path / "out"), "--ckpt.path", str(tmp_path / "out/steps")]
        return flags.parse([*inputs.flags(), *LOSS, *places, *argv]).arguments

    return parse


def check(arguments):
    places.check(arguments)
    places.check_same_run(arguments)


@pytest.fixture
def refusal(parsed, tmp_path):
    """The one line with which a run is refused; nothing is written."""

    def refused(*argv):
        before = sorted(map(str, tmp_path.rglob("*")))
        with pytest.raises(UserError) as error:
            check(parsed(*argv))
        assert sorted(map(str, tmp_path.rglob("*"))) == before
        assert "\n" not in str(error.value)
        return str(error.value)

    return refused


@pytest.fixture
def small_disk(tmp_path):
    """A disk with 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def earlier_run(parsed, tmp_path, *argv, finished=False):
    out = tmp_path / "out"
    out.mkdir()
    (out / configuration.FILE).write_text(config.dump(parsed(*argv)))
    (out / metrics.FILE).write_text('{"step": 1, "split": "train"}\n')
    if finished:
        (out / "config.json").write_text("{}")


# ---------------------------------------------------------------- other people's folders


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("pairs.jsonl", "other files (pairs.jsonl)"),
        ("model.safetensors", "other files (model.safetensors)"),
        ("config.json", "a model"),
        ("adapter_config.json", "a model"),
    ],
)
def test_a_folder_with_something_else_is_refused(name, got, refusal, parsed, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    message = refusal()
    assert f"got a folder with {got}, expected an empty one or an unfinished run" in message
    assert "--overwrite" in message
    check(parsed("--overwrite"))


@pytest.mark.parametrize(
    "name", ["train.log", "slurm-7.out", "slurm-7.err", ".DS_Store", "steps", "run.yaml"]
)
def test_logs_and_what_the_command_names_may_lie_there(name, parsed, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).mkdir() if name == "steps" else (tmp_path / "out" / name).write_text("{}")
    check(parsed(*(["--config", str(tmp_path / "out/run.yaml")] if name == "run.yaml" else [])))


def test_an_unfinished_run_of_the_same_configuration_goes_on(parsed, refusal, tmp_path):
    earlier_run(parsed, tmp_path)
    check(parsed())
    check(parsed("--ckpt.load_enable", "--train.micro_batch_size", "2"))
    assert "got a folder with another run (adam.lr differs)" in refusal("--adam.lr", "0.5")


def test_a_finished_run_is_replaced_by_nothing_but_its_own_resumption(parsed, refusal, tmp_path):
    earlier_run(parsed, tmp_path, finished=True)
    assert "got a folder with a finished run" in refusal()
    check(parsed("--ckpt.load_enable"))
    check(parsed("--overwrite"))


# ---------------------------------------------------------------- what the run reads


@pytest.mark.parametrize("spelled", ["{}", "{}/", "{}/../{name}", "{link}", "{link}/.", "{parent}"])
@pytest.mark.parametrize("flag", ["--model.model_name_or_path", "--ref.model_name_or_path"])
def test_a_model_that_the_run_reads_is_never_written_over(flag, spelled, refusal, inputs, tmp_path):
    root = tmp_path / "models"
    shutil.copytree(inputs.model(), root / "start")
    (tmp_path / "link").symlink_to(root / "start")
    values = {"name": "start", "link": tmp_path / "link", "parent": root}
    out = spelled.format(root / "start", **values)
    message = refusal(flag, str(root / "start"), "--ckpt.output_dir", out, "--overwrite")
    assert f"got a folder that holds {flag} {root / 'start'}, which the run reads" in message


def test_a_model_that_is_named_by_a_link_is_not_written_over_either(refusal, inputs, tmp_path):
    shutil.copytree(inputs.model(), tmp_path / "start")
    (tmp_path / "link").symlink_to(tmp_path / "start")
    given = ["--model.model_name_or_path", str(tmp_path / "link")]
    assert "which the run reads" in refusal(
        *given, "--ckpt.output_dir", str(tmp_path / "start"), "--overwrite"
    )


@pytest.mark.parametrize("flag", ["--data.dataset", "--eval.dataset"])
def test_data_that_the_run_reads_is_never_in_the_way(flag, refusal, inputs, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(inputs.train, data / "pairs.jsonl")
    for out in (data, tmp_path):
        given = [flag, f"{data / 'pairs.jsonl'}@0.5,org/hub", "--ckpt.output_dir", str(out), "--overwrite"]
        assert f"holds {flag} {data / 'pairs.jsonl'}, which the run reads" in refusal(*given)
    message = refusal(flag, str(data), "--ckpt.output_dir", str(data / "out"))
    assert f"got a folder inside {flag} {data}, of which every file is read as data" in message


# ---------------------------------------------------------------- checkpoints


def saved(folder, step=4):
    checkpoints.begin(folder, f"global_step{step}")
    checkpoints.finish(folder, f"global_step{step}", {"processes": 1}, 3)


def test_checkpoints_of_an_earlier_run_are_not_mixed_with_new_ones(refusal, parsed, tmp_path):
    steps = tmp_path / "shared"
    saved(steps)
    given = ["--ckpt.path", str(steps)]
    check(parsed(*given))  # a run that writes none
    message = refusal(*given, "--ckpt.save_steps", "2")
    assert f"--ckpt.path {steps}: got checkpoints of an earlier run (global_step4), expected none" in message
    assert "--resume" in message
    check(parsed(*given, "--ckpt.save_steps", "2", "--ckpt.load_enable"))
    check(parsed(*given, "--ckpt.save_steps", "2", "--overwrite"))


def test_a_first_checkpoint_that_was_killed_is_in_nobodys_way(parsed, tmp_path):
    checkpoints.begin(tmp_path / "out/steps", "global_step2")
    check(parsed("--ckpt.save_steps", "2"))


def test_overwriting_leaves_what_no_run_writes(parsed, tmp_path):
    out = tmp_path / "out"
    earlier_run(parsed, tmp_path, finished=True)
    saved(out / "steps")
    for name in ("adapter_config.json", "model-00001-of-00002.safetensors", checkpoint.RECORD, "notes.txt"):
        (out / name).write_text("old")
    (out / "steps/mine").mkdir()
    places.begin(parsed("--ckpt.save_steps", "2"))
    assert (out / "config.json").exists()  # without the flag nothing goes
    places.begin(parsed("--ckpt.save_steps", "2", "--overwrite"))
    assert {path.relative_to(out).as_posix() for path in out.rglob("*")} == {
        "notes.txt",
        "steps",
        "steps/mine",
    }


# ---------------------------------------------------------------- disks


def test_checkpoints_to_resume_from_are_not_looked_for_below_a_file(refusal, tmp_path):
    (tmp_path / "file").write_text("")
    message = refusal("--ckpt.load_enable", "--ckpt.path", str(tmp_path / "file/steps"))
    assert f"{tmp_path / 'file'} is a file, expected a folder" in message


@pytest.mark.parametrize("flag", ["--ckpt.output_dir", "--ckpt.path"])
def test_a_place_below_a_file_or_where_nothing_can_be_written(flag, refusal, tmp_path):
    (tmp_path / "file").write_text("")
    asked = ["--ckpt.save_steps", "2", flag]
    assert f"{tmp_path / 'file'} is a file, expected a folder" in refusal(
        *asked, str(tmp_path / "file/deep/er")
    )
    message = refusal(*asked, "/proc/nothing/here")
    assert message.startswith(f"{flag} /proc/nothing/here: /proc/nothing/here cannot be written (")


def test_a_cache_of_data_sets_that_cannot_be_written(refusal, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "/proc/nothing/datasets")
    message = refusal()
    assert message.startswith("HF_DATASETS_CACHE (by default below HF_HOME, or HOME): /proc/nothing/datasets")


def test_a_disk_that_is_full_is_known_before_the_work(refusal, small_disk):
    (small_disk / "rest").write_bytes(bytes(190_000))
    assert "cannot be written (No space left on device)" in refusal(
        "--ckpt.output_dir", str(small_disk / "out")
    )


def test_a_disk_with_less_room_than_the_model_takes(refusal, small_disk, inputs):
    size = (inputs.model() / "model.safetensors").stat().st_size
    asked = ["--ckpt.output_dir", str(small_disk / "out")]
    (small_disk / "rest").write_bytes(bytes(204_800 - size + 8192))
    message = refusal(*asked)
    assert "GB free, expected at least" in message or "No space left" in message


def test_a_model_finds_another_place(small_disk, tmp_path, monkeypatch):
    (small_disk / "home").mkdir()
    (tmp_path / "large").mkdir()
    monkeypatch.chdir(small_disk)
    monkeypatch.setenv("HOME", str(small_disk / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "large"))
    assert saving.obstacle(small_disk, 10_000) is None
    assert "GB free, expected" in saving.obstacle(small_disk, 10_000_000)
    assert saving.elsewhere(10_000_000).parent == tmp_path / "large"


# ---------------------------------------------------------------- a second writer


def test_one_run_at_a_time_writes_to_a_folder(refusal, parsed, tmp_path):
    out = tmp_path / "out"
    with lock.held([out, out / "steps", out]):
        assert f"{out}: another run is writing there" in refusal()
        with pytest.raises(UserError, match="another run is writing there"), lock.held([out]):
            pass
        assert (out / lock.LOCK).exists()
    assert [path.name for path in out.iterdir()] == ["steps"]
    check(parsed())


def test_the_lock_of_a_run_that_was_killed_is_free(parsed, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / lock.LOCK).touch()
    check(parsed())
    with lock.held([tmp_path / "out"]):
        pass
    assert not list((tmp_path / "out").iterdir())


# ---------------------------------------------------------------- adapters


def test_an_adapters_folder_opens_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "base", "r": 4}))
    monkeypatch.chdir(tmp_path)
    saving.complete_adapter(folder)
    content = json.loads((folder / "adapter_config.json").read_text())
    assert content == {"base_model_name_or_path": str(tmp_path / "base"), "r": 4}
    assert not (folder / "config.json").exists()
