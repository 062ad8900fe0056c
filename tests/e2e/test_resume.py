"""Kill, resume, resume with other processes, export: what DeepSpeed checkpoints are for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training import FP32, SPARSE, environment
from transformers import AutoModelForCausalLM

from sparsepo_plugin import checkpoint, cli
from sparsepo_plugin.adapters.openrlhf import checkpoints, export, flags, preflight
from sparsepo_plugin.errors import UserError

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
IDS = torch.arange(3, 35).reshape(2, 16)


def logits(folder):
    """Of a whole model and of an adapter's folder alike, which transformers opens with its base."""
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits.float()


def same_tensors(one, other):
    left, right = load_file(one), load_file(other)
    assert set(left) == set(right)
    for name, value in left.items():
        assert value.dtype == right[name].dtype, name
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("name", ["zero2", "zero0", "bf16", "upstream"])
def test_an_exported_model_is_the_one_the_trainer_saved(name, saved_runs, tmp_path, capsys):
    run = saved_runs[name]
    assert run.code == 0, run.err[-2000:]
    assert (
        cli.main(["export", "--checkpoint", str(run.folder / "steps"), "--out", str(tmp_path / "out")]) == 0
    )
    assert "exported step 6" in capsys.readouterr().out
    same_tensors(run.folder / "model.safetensors", tmp_path / "out/model.safetensors")
    assert torch.equal(logits(run.folder), logits(tmp_path / "out"))
    if name != "upstream":
        same_tensors(run.folder / checkpoint.WEIGHTS, tmp_path / "out" / checkpoint.WEIGHTS)
        assert checkpoint.load_masks(tmp_path / "out").options == checkpoint.load_masks(run.folder).options
    older = run.folder / "steps/global_step4"
    assert cli.main(["export", "--checkpoint", str(older), "--out", str(tmp_path / "older")]) == 0
    assert not torch.equal(logits(tmp_path / "older"), logits(run.folder))


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_checkpoints_of_two_processes_are_exported_too(name, saved_by_two, tmp_path):
    run = saved_by_two[name]
    assert run.code == 0, run.err[-2000:]
    assert (
        cli.main(["export", "--checkpoint", str(run.folder / "steps"), "--out", str(tmp_path / "out")]) == 0
    )
    same_tensors(run.folder / "model.safetensors", tmp_path / "out/model.safetensors")
    same_tensors(run.folder / checkpoint.WEIGHTS, tmp_path / "out" / checkpoint.WEIGHTS)


@pytest.mark.parametrize("name", ["lora", "lora_zero3"])
def test_an_adapter_is_exported_as_one_or_merged(name, saved_runs, tmp_path):
    run = saved_runs[name]
    assert run.code == 0, run.err[-2000:]
    source = ["export", "--checkpoint", str(run.folder / "steps")]
    assert cli.main([*source, "--out", str(tmp_path / "adapter")]) == 0
    assert cli.main([*source, "--out", str(tmp_path / "merged"), "--merge"]) == 0
    assert (tmp_path / "adapter/adapter_model.safetensors").is_file()
    assert not (tmp_path / "merged/adapter_config.json").exists()
    want = logits(run.folder)
    torch.testing.assert_close(logits(tmp_path / "adapter"), want)
    torch.testing.assert_close(
        logits(tmp_path / "merged"), want, atol=1e-5 if name == "lora" else 0.02, rtol=0
    )
    same_tensors(run.folder / checkpoint.WEIGHTS, tmp_path / "merged" / checkpoint.WEIGHTS)


def damaged(run, tmp_path, how):
    folder = tmp_path / "steps"
    shutil.copytree(run.folder / "steps", folder)
    if how == "partial":
        for saved in checkpoints.complete(folder):
            checkpoints.begin(folder, saved.tag)
    elif how == "corrupt":
        for file in (folder / "global_step6").glob("*.pt"):
            file.write_bytes(file.read_bytes()[:1000])
    elif how == "shard missing":
        for file in (folder / "global_step6").glob("*model_states.pt"):
            file.unlink()
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("partial", "got one that was not written to its end"),
        ("corrupt", "mp_rank_00_model_states.pt has 1000 bytes, expected"),
        ("shard missing", "mp_rank_00_model_states.pt is missing; export"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(how, message, saved_runs, tmp_path, capsys):
    folder = damaged(saved_runs["zero2"], tmp_path, how)
    assert cli.main(["export", "--checkpoint", str(folder), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"steps"}


def test_export_refuses_to_overwrite_and_to_merge_what_is_no_adapter(saved_runs, tmp_path, capsys):
    source = ["export", "--checkpoint", str(saved_runs["zero2"].folder / "steps"), "--out", str(tmp_path)]
    (tmp_path / "mine").write_text("x")
    assert cli.main(source) == 2
    assert "expected a new or an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert cli.main([*source[:-1], str(tmp_path / "new"), "--merge"]) == 2
    assert "expected a LoRA adapter" in capsys.readouterr().err
    assert cli.main(["export", "--checkpoint", str(tmp_path), "--out", str(tmp_path / "new")]) == 2
    assert "got none, expected a complete checkpoint" in capsys.readouterr().err


def test_of_two_exports_into_one_folder_the_slower_is_refused(saved_runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"

    def beside_another(*args):
        write(*args)
        out.mkdir()
        (out / "model.safetensors").write_text("another export's")

    write = export._write_policy
    monkeypatch.setattr(export, "_write_policy", beside_another)
    assert (
        cli.main(["export", "--checkpoint", str(saved_runs["zero2"].folder / "steps"), "--out", str(out)])
        == 2
    )
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "something else was written there meanwhile (Directory not empty)" in error
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "model.safetensors").read_text() == "another export's"


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_one_process_goes_on_where_two_stopped(name, saved_by_two, resumed_by_one):
    whole, resumed = saved_by_two[name], resumed_by_one[name]
    assert whole.code == resumed.code == 0, resumed.err[-2000:]
    assert "was saved by 2 processes and is loaded by 1" in resumed.out
    assert [line["step"] for line in resumed.lines("train")] == [1, 2, 3, 4, 5, 6]
    assert resumed.losses() == pytest.approx(whole.losses(), abs=1e-5)
    for file in ("model.safetensors", checkpoint.WEIGHTS):
        one, other = (load_file(run.folder / file) for run in (whole, resumed))
        for key in one:
            torch.testing.assert_close(one[key], other[key], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--sparsepo.masks", "common"], "sparsepo.masks is 'common' now and was 'independent'"),
        (["--adam.lr", "0.5"], "adam.lr is 0.5 now and was 0.003"),
        (["--train.batch_size", "4"], "train.batch_size is 4 now and was 8"),
        (["--data.max_len", "96"], "data.max_len is 96 now and was 128"),
    ],
)
def test_resuming_as_another_run_is_refused_before_any_work(change, message, saved_runs, inputs, tmp_path):
    path = str(saved_runs["zero2"].folder / "steps")
    argv = [*inputs.flags(), *FP32, *SPARSE, "--train.max_epochs", "2", "--ckpt.path", path]
    argv += ["--ckpt.output_dir", str(tmp_path / "out")]
    preflight.check(flags.parse([*argv, "--ckpt.load_enable"]))
    preflight.check(flags.parse([*argv, *change]))  # a new run may differ
    with pytest.raises(UserError, match="cannot resume from") as error:
        preflight.check(flags.parse([*argv, "--ckpt.load_enable", *change]))
    assert message in str(error.value)


def test_a_run_killed_again_and_again_ends_with_the_same_numbers(tmp_path):
    command = [
        sys.executable,
        ROOT / "benchmarks/kill_resume.py",
        "--kills",
        "3",
        "--pairs",
        "40",
        "--out",
        tmp_path,
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["kills"] == 3
    assert row["steps"] == 20
