"""The comparison of all methods on sentiment at smoke size, on data that the test makes; and its guides."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made_data import make

from study.language import Language as Reference
from study.language import Size, build_model, build_tokenizer
from study.on_methods import plan, weights
from study.prepared import TokenPair, prepare

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SMOKE = plan.SIZES["smoke"]


def compare(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "study.on_methods", "--scale", "smoke", "--data", folder / "data"]
    command += ["--out", folder / "out.csv", "--work", folder / "work", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    make(folder / "data")
    result = compare(folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def test_every_run_has_its_rows(done):
    found = rows(done / "out.csv")
    runs = [row for row in found if row["method"] != plan.REFERENCE]
    keys = [(row["method"], float(row["beta"]), int(row["seed"])) for row in runs]
    assert set(keys) == set(SMOKE.points())
    assert len(runs) == len(SMOKE.points()) * len(SMOKE.stops) * 2
    assert len(found) - len(runs) == 2 * len(SMOKE.seeds)
    for row in found:
        assert 0 < float(row["reward"]) < 1
        if row["split"] == "test":
            blocks = [float(value) for value in row["blocks"].split()]
            assert len(blocks) == SMOKE.blocks
            assert sum(blocks) / len(blocks) == pytest.approx(float(row["reward"]), abs=1e-4)
    # Methods are different trainings: no two end at the same place, at the first beta and seed.
    ends = [
        row["kl"]
        for row in runs
        if (row["split"], row["step"], row["seed"]) == ("test", str(SMOKE.stops[-1]), str(SMOKE.seeds[0]))
        and float(row["beta"]) == plan.METHODS[row["method"]].betas[0]
    ]
    assert len(set(ends)) == len(SMOKE.methods)


def test_what_is_missing_is_run_again_with_the_same_result(done):
    path = done / "out.csv"
    before = rows(path)
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[:-4]))  # the last run of the last seed
    assert compare(done).returncode == 0
    kept = ("method", "beta", "seed", "split", "step", "kl", "reward", "check", "blocks")
    assert [[row[k] for k in kept] for row in rows(path)] == [[row[k] for k in kept] for row in before]
    again = compare(done)
    assert "nothing is missing" in again.stdout


def test_data_that_are_not_there_end_in_one_line(done, tmp_path):
    result = compare(tmp_path)
    assert result.returncode == 2
    assert "no such file" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("flag", "message"), [("--out", "got a folder"), ("--work", "is a file")])
def test_places_that_cannot_be_written_end_in_one_line(flag, message, done, tmp_path):
    (tmp_path / "file").write_text("")
    result = compare(done, flag, str(tmp_path if flag == "--out" else tmp_path / "file/below"))
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_guides_number_every_response_token_by_the_half_that_has_not_seen_it():
    tokenizer = build_tokenizer(["a film of the story and the scene " * 20, "was long with music " * 20], 300)
    model = build_model(tokenizer, Size(300, 32, 2, 1), 0).eval().requires_grad_(False)
    language = Reference(model, tokenizer)
    pairs = [TokenPair([5, 6], [7 + n, 8, 9], [20 + n, 21, 22]) for n in range(8)]
    whole = prepare(language, pairs)
    found = weights.log_ratios(language, pairs, whole, SMOKE, 3)
    response = whole.labels[:, 1:] != -100
    assert torch.equal(~found.isnan(), response)
    assert found[response].abs().min() > 0
    # Even pairs are scored by the guide of the odd ones: another even pair changes the odd ones alone.
    other = [TokenPair([5, 6], [40, 41, 42], [43, 44, 45]), *pairs[1:]]
    changed = weights.log_ratios(language, other, prepare(language, other), SMOKE, 3)
    even, odd = torch.tensor([4, 5, 8, 9, 12, 13]), torch.tensor([2, 3, 6, 7, 10, 11, 14, 15])
    assert torch.equal(changed[even].nan_to_num(), found[even].nan_to_num())
    assert not torch.equal(changed[odd].nan_to_num(), found[odd].nan_to_num())
