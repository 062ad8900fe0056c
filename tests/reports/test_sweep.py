"""Sweeps: the grid is read strictly, finished runs are recognised, half-finished ones begin anew."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import made_runs
import pytest
import yaml
from training import environment

from sparsepo_plugin import cli
from sparsepo_plugin.report.view import summary
from sparsepo_plugin.run_folder import tokens as record
from sparsepo_plugin.sweep import grid, process, run

GRID = {"losses": ["dpo", "sparsepo"], "betas": [0.1, 0.5], "seeds": [0, 1]}


@pytest.fixture
def base(inputs):
    """Flags of every run, as a grid file nests them."""
    return {
        "model": {"model_name_or_path": str(inputs.model())},
        "data": {"dataset": str(inputs.train), "prompt_key": "prompt", "max_len": 128},
        "eval": {"dataset": str(inputs.held_out)},
        "train": {"batch_size": 8, "micro_batch_size": 4},
        "ds": {"param_dtype": "fp32"},
        "adam": {"lr": 0.003},
    }


@pytest.fixture
def write(base, tmp_path):
    """Write a grid file with changed keys; a key of value None is left out."""

    def written(**changed) -> Path:
        given = {"base": base, **GRID, **changed}
        content = {key: value for key, value in given.items() if value is not None}
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return written


@pytest.fixture
def trained(monkeypatch):
    """In the trainer's place: writes what a training leaves, and lists the folders."""
    folders = []

    def train(argv, log, lock):
        values = dict(zip(argv[::2], argv[1::2]))
        folder = Path(values["--ckpt.output_dir"])
        folders.append(folder.name)
        log.write_text("output")
        if "fails" in values.values():
            return 1
        loss, beta = values["--loss"], float(values["--model.beta"])
        made_runs.write(folder / "made", loss=loss, beta=beta, seed=int(values["--train.seed"]))
        (folder / "made/metrics.jsonl").rename(folder / "metrics.jsonl")
        return 0

    monkeypatch.setattr(process, "train", train)
    return folders


@pytest.fixture
def undrawn(monkeypatch):
    """Figures cost more than all else where the trainer is replaced: one test draws them."""
    monkeypatch.setattr(run, "_draw", lambda folder, rows: None)


def sweep(path, out):
    return cli.main(["sweep", "--grid", str(path), "-o", str(out)])


def table(out):
    with open(out / "table.csv", newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- the grid


def test_the_grid_is_losses_x_betas_x_options_x_seeds_with_the_seeds_outermost(write):
    options = {"sparsepo": [{"masks": "common"}, {"masks": "independent", "reward_l1": 0.01}]}
    points = grid.read(write(options=options)).points
    assert len(points) == (2 + 2 * 2) * 2
    assert {point.seed for point in points[:6]} == {0}
    assert points[3].flags() == [
        *("--loss", "sparsepo", "--model.beta", "0.1", "--train.seed", "0"),
        *("--sparsepo.masks", "independent", "--sparsepo.reward_l1", "0.01"),
    ]
    varying = grid.varying(points)
    assert varying == {"loss", "beta", "seed", "masks", "reward_l1"}
    assert points[3].name(varying) == "sparsepo-beta0.1-seed0-masks=independent-reward_l1=0.01"
    # What all points share says nothing of one.
    assert points[3].name(grid.varying(points[2:4])) == "masks=independent-reward_l1=0.01"
    assert points[3].name(grid.varying(points[3:4])) == "sparsepo"
    assert [point.seed for point in grid.read(write(seeds=None)).points] == [0] * 4


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"losses": ["sparspo"]}, ["unknown loss 'sparspo'", "did you mean sparsepo"]),
        ({"losses": None}, ["key losses", "got None"]),
        ({"betas": [0.1, 0]}, ["key betas", "expected numbers > 0"]),
        ({"betas": [0.1, 0.1]}, ["key betas", "expected every entry once"]),
        ({"betas": 0.1}, ["key betas", "expected a list"]),
        ({"seeds": [0.5]}, ["key seeds", "whole numbers"]),
        ({"loses": []}, ["unknown key", "'loses'", "losses"]),
        ({"base": None}, ["key base", "the flags of every run"]),
        ({"base": "gone.yaml"}, ["cannot read configuration gone.yaml"]),
        ({"options": [1]}, ["key options", "expected a mapping"]),
        ({"options": {"ipo": [{}]}}, ["unknown loss", "'ipo'", "key options"]),
        ({"options": {"dpo": [{"recrd": 1}]}}, ["unknown option of dpo", "did you mean record"]),
        ({"options": {"dpo": {"record": 1}}}, ["key options.dpo", "expected a list of mappings"]),
        ({"options": {"dpo": [{"record": 1}, {"record": 1}]}}, ["key options.dpo", "once"]),
        ({"options": {"dpo": [{}, {"record": 0}]}}, ["which are the same run"]),
        ({"options": {"sparsepo": [{"masks": "both"}]}}, ["--sparsepo.masks", "'both'"]),
        ({"base": {"modle": {"beta": 1}}}, ["unknown key", "modle.beta"]),
        ({"base": {"data": {"dataset": "x.jsonl"}}}, ["no eval.dataset"]),
        ({"base": {"data": {"dataset": "gone.jsonl"}, "eval": {"dataset": "e"}}}, ["model_name_or_path"]),
    ],
)
def test_a_bad_grid_is_refused_in_one_line_before_anything_is_written(
    changed, words, write, trained, tmp_path, capsys
):
    assert sweep(write(**changed), tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert not (tmp_path / "out").exists()
    assert trained == []


# ---------------------------------------------------------------- resuming, without the trainer


def test_every_point_is_trained_once_and_the_table_and_plots_are_written(write, trained, tmp_path, capsys):
    path, out = write(), tmp_path / "out"
    assert sweep(path, out) == 0
    assert len(set(trained)) == len(trained) == 8
    rows = table(out)
    assert [row["status"] for row in rows] == ["finished"] * 8
    assert float(rows[0]["sequence_kl"]) == pytest.approx(0.1 * 20 + 0.5)
    assert rows[0]["step"] == "20"
    assert rows[5]["seed"] == "1"
    markdown = (out / "table.md").read_text()
    assert markdown.count("| finished |") == 8
    assert "| dpo | 0.1 | 2 |" in markdown
    names = {path.name for path in out.iterdir()}
    assert {
        "reward_kl_frontier.png",
        "reward_kl_frontier.svg",
        "sparsity_beta.png",
        "sparsity_beta.svg",
    } <= names
    trained.clear()
    assert sweep(path, out) == 0
    assert trained == []
    assert capsys.readouterr().out.count("already finished") == 8
    assert sweep(write(betas=[0.5, 1.0]), out) == 0  # a grid that changed: only what is new
    assert len(trained) == 4
    assert all("beta1" in name for name in trained)
    rows = table(out)  # one table over both
    assert len(rows) == 12
    assert {row["beta"] for row in rows} == {"0.1", "0.5", "1.0"}
    trained.clear()
    assert sweep(write(losses=["dpo"], betas=[0.5]), out) == 0  # under a shorter name it is the same run
    assert trained == []
    assert len(table(out)) == 12


def test_one_table_tells_runs_of_two_bases_apart(write, trained, undrawn, base, tmp_path, monkeypatch):
    """The configuration of every run says in what it differs from the others, whatever grid it is of."""
    replaced = process.train

    def train(argv, log, lock):
        code = replaced(argv, log, lock)
        (log.parent / "sparsepo_config.yaml").write_text(
            yaml.safe_dump({"loss": "dpo", "adam": {"lr": rate}, "eval": {"steps": rate}})
        )
        return code

    monkeypatch.setattr(process, "train", train)
    small, out = {"losses": ["dpo"], "betas": [0.5], "seeds": [0]}, tmp_path / "out"
    for rate in (0.003, 0.001):
        assert sweep(write(**small, base={**base, "adam": {"lr": rate}}), out) == 0
    assert [row["options"] for row in table(out)] == ["adam.lr=0.001", "adam.lr=0.003"]
    assert [row["status"] for row in table(out)] == ["finished"] * 2


def test_what_was_not_finished_under_this_very_configuration_begins_anew(
    write, trained, undrawn, base, tmp_path
):
    small = {"losses": ["dpo"], "betas": [0.5], "seeds": [0, 1, 2]}
    out = tmp_path / "out"
    assert sweep(write(**small), out) == 0
    folders = [out / "runs" / name for name in trained]
    trained.clear()
    (folders[0] / run.DONE).unlink()  # killed before its end
    (folders[0] / "left").write_text("over")
    note = json.loads((folders[1] / run.DONE).read_text())
    (folders[1] / run.DONE).write_text(json.dumps({**note, "key": "0" * 64}))
    assert sweep(write(**small), out) == 0
    assert trained == [folders[0].name, folders[1].name]
    assert not (folders[0] / "left").exists()
    trained.clear()
    assert sweep(write(**small, base={**base, "adam": {"lr": 0.001}}), out) == 0
    assert len(trained) == 3
    assert not set(trained) & {folder.name for folder in folders}


def test_data_that_changed_under_the_same_name_are_other_data(
    write, trained, undrawn, base, inputs, tmp_path
):
    data = tmp_path / "train.jsonl"
    data.write_text(inputs.train.read_text())
    small = {"losses": ["dpo"], "betas": [0.5], "seeds": [0]}
    changed = {**base, "data": {**base["data"], "dataset": str(data)}}
    for more, runs in (("", 1), ("", 1), (inputs.held_out.read_text(), 2)):
        run.identity.digest.cache_clear()
        data.write_text(data.read_text() + more)
        assert sweep(write(**small, base=changed), tmp_path / "out") == 0
        assert len(trained) == runs


def test_a_run_that_fails_is_named_and_tried_again(write, trained, undrawn, tmp_path, capsys):
    small = {"losses": ["dpo"], "betas": [0.5], "seeds": [0]}
    failing = {"dpo": [{"anchor": 0.1, "anchor_weight": "complement"}, {}]}
    path, out = write(**small, options=failing), tmp_path / "out"
    assert sweep(path, out) == 0
    for folder in (out / "runs").glob("*complement*"):
        (folder / run.DONE).unlink()
    kept = process.train
    process.train = lambda argv, log, lock: log.write_text("broken") and 1
    trained.clear()
    assert sweep(path, out) == 1
    err = capsys.readouterr().err
    assert "1 of 2 runs failed" in err
    assert "train.log" in err
    assert err.count("\n") == 1
    assert [row["status"] for row in table(out)] == ["failed", "finished"]
    process.train = kept
    assert sweep(path, out) == 0
    assert len(trained) == 1


def test_somebody_elses_folder_and_a_sweep_at_work_are_left_alone(
    write, trained, tmp_path, capsys, monkeypatch
):
    path = write(losses=["dpo"], betas=[0.5], seeds=[0])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    assert sweep(path, tmp_path / "mine") == 2
    assert "got a folder with other files" in capsys.readouterr().err
    assert sweep(path, path) == 2
    assert "is a file, expected a folder" in capsys.readouterr().err
    monkeypatch.setattr(process, "_PATIENCE", 0.1)
    (tmp_path / "out").mkdir()
    with process.locked(tmp_path / "out"):
        (tmp_path / "out/sweep.json").write_text(json.dumps({"tool": "sparsepo sweep"}))
        assert sweep(path, tmp_path / "out") == 2
    assert "another sweep is at work" in capsys.readouterr().err
    assert trained == []


# ---------------------------------------------------------------- the real thing


@pytest.mark.slow
def test_a_sweep_killed_and_restarted_repeats_no_finished_run(write, tmp_path, capsys):
    """Two real trainings; kill -9 in the second. The first is kept as it is, the second begins anew."""
    options = {loss: [{"record": 7}] for loss in ("dpo", "sparsepo")}
    path, out = write(betas=[0.5], seeds=[0], options=options), tmp_path / "out"
    command = [sys.executable, "-m", "sparsepo_plugin", "sweep", "--grid", str(path), "-o", str(out)]
    with open(tmp_path / "first.log", "w") as log:
        first = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, cwd=tmp_path)
        try:
            second = wait_for_second(first, out)
        finally:
            os.kill(first.pid, signal.SIGKILL)
            first.wait()
    (finished,) = out.glob(f"runs/*/{run.DONE}")
    kept = {path: path.stat().st_mtime_ns for path in finished.parent.rglob("*")}
    assert re.fullmatch("dpo-[0-9a-f]{8}", finished.parent.name)  # the loss is what varies
    (second / "trace").write_text("of the killed run")
    assert sweep(path, out) == 0
    printed = capsys.readouterr().out
    assert f"[1/2] {finished.parent.name}: already finished" in printed
    assert f"[2/2] {second.name}: training" in printed
    assert {path: path.stat().st_mtime_ns for path in finished.parent.rglob("*")} == kept
    assert not (second / "trace").exists()
    rows = table(out)
    assert [(row["loss"], row["status"]) for row in rows] == [("dpo", "finished"), ("sparsepo", "finished")]
    for row in rows:  # an evaluation measures the KL of a loss that does not need it, too
        assert float(row["sequence_kl"]) > 0
        assert 0 <= float(row["accuracy_unmasked"]) <= 1
    assert (out / "reward_kl_frontier.png").is_file()
    check_the_reports(rows, out, tmp_path)


def check_the_reports(rows, out, tmp_path):
    """The page's margins, times beta, are the trainer's own, for losses with and without a KL term."""
    folders = [out / "runs" / row["run"] for row in rows]
    for row, folder in zip(rows, folders):
        margins = [summary.margin(pair) for pair in record.read(folder / "tokens.jsonl").pairs]
        assert len(margins) == 7
        assert 0.5 * sum(margins) / 7 == pytest.approx(float(row["margin"]), rel=1e-4, abs=1e-5)
    assert cli.main(["view", str(folders[1]), "-o", str(tmp_path / "page.html")]) == 0
    assert cli.main(["plot", *map(str, folders), "-o", str(tmp_path / "plots")]) == 0
    assert (tmp_path / "plots/mask_histogram.svg").is_file()


def wait_for_second(process, out):
    """Folder of the second run, once its trainer is at work."""
    until = time.monotonic() + 500
    while time.monotonic() < until:
        assert process.poll() is None, "the sweep ended before it could be killed"
        found = [path for path in out.glob("runs/sparsepo-*") if (path / "train.log").is_file()]
        if found:
            return found[0]
        time.sleep(0.05)
    raise AssertionError("no second run")
