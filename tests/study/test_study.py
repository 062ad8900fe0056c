"""The study from end to end at smoke size, on data that the test makes."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_data import make

from study import capability
from study.claims import FAILS, HOLDS, OPEN

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def study(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "study", "--scale", "smoke", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def matches(row: dict[str, str], wanted: dict[str, str]) -> bool:
    """Numbers are equal as numbers: 1 and 1.0 name the same budget."""

    def plain(text: str) -> object:
        try:
            return float(text)
        except ValueError:
            return text

    return all(plain(row[name]) == plain(value) for name, value in wanted.items())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    make(folder / "data")
    words = ["--data", folder / "data", "--out", folder / "out", "--work", folder / "work"]
    words += [
        "--page",
        folder / "study.md",
        "--parts",
        "sentiment",
        "longer",
        "helpful",
        "summaries",
        "report",
    ]
    result = study(*map(str, words))
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, list(map(str, words))


def test_every_run_left_its_rows_with_what_made_them(done):
    folder, _ = done
    sweep = rows(folder / "out/sentiment.csv")
    runs = {(row["method"], row["beta"], row["seed"]) for row in sweep}
    assert len(runs) == 2 * 2 * 2
    assert len(sweep) == len(runs) * 2 * 2  # two splits, two stops
    for path in (folder / "out").glob("*.csv"):
        derived = path.stem in (
            "sentiment_frontier",
            "sentiment_weights",
            "sentiment_longer_weights",
            "verdicts",
        )
        for row in rows(path):
            assert derived or all(row[name] for name in ("commit", "torch", "python", "device")), path
    tuned = rows(folder / "out/sentiment_tuning.csv")
    assert {row["split"] for row in tuned} == {"validation"}
    assert {row["split"] for row in rows(folder / "out/sentiment_reference.csv") if row["seed"] == "100"} == {
        "validation"
    }


def test_what_is_missing_is_run_again_with_the_same_numbers(done):
    folder, words = done
    path = folder / "out/sentiment.csv"
    whole = path.read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    gone = [line for line in lines if re.match(r"sparsepo common,0\.2,1,", line)]
    assert len(gone) == 4
    path.write_text("".join(line for line in lines if line not in gone), encoding="utf-8")
    assert study(*words).returncode == 0

    def numbers(found: list[dict[str, str]]) -> dict[str, str]:
        which = ("method", "beta", "seed", "step", "split")
        return {
            f"{name} of {' '.join(row[key] for key in which)}": value
            for row in found
            for name, value in row.items()
            if name not in ("seconds", "commit", *which)
        }

    def same(one: str, other: str) -> bool:
        try:
            return float(one) == pytest.approx(float(other), rel=1e-5, abs=1e-9)
        except ValueError:
            return one == other

    again = numbers(rows(path))
    path.write_text(whole, encoding="utf-8")
    before = numbers(rows(path))
    assert again.keys() == before.keys()
    # Only what differs, so that a machine that computes otherwise from run to run says where.
    assert {
        name: (value, again[name]) for name, value in before.items() if not same(value, again[name])
    } == {}


def test_verdicts_come_from_the_rows_they_name_and_stand_in_the_page(done):
    folder, _ = done
    verdicts = rows(folder / "out/verdicts.csv")
    assert len(verdicts) >= 8
    page = (folder / "study.md").read_text(encoding="utf-8")
    for verdict in verdicts:
        wanted = dict(part.split("=", 1) for part in verdict["row"].split(" and "))
        named = [row for row in rows(folder / "out" / verdict["file"]) if matches(row, wanted)]
        column = "difference_mean" if verdict["column"] == "difference" else verdict["column"]
        assert [row[column] for row in named] == [verdict["value"]], verdict
        assert verdict["verdict"] in (HOLDS, FAILS, OPEN)
        assert verdict["claim"] in page
    for name in (
        "sentiment",
        "sentiment_budgets",
        "sentiment_weights",
        "sentiment_longer",
        "helpful",
        "summaries",
    ):
        assert (folder / f"out/{name}.png").stat().st_size > 5000


def test_policies_are_gated_by_the_harness(done):
    folder, _ = done
    capability.study(
        folder / "data", folder / "work", folder / "out", "smoke", ("summaries",), ("faithfulness",)
    )
    found = rows(folder / "out/capability.csv")
    assert {row["gate"] for row in found} == {"support", "content", "names", "numbers", "variety"}
    assert {row["method"] for row in found} == set(capability.METHODS)
    for row in found:
        gap = float(row["after"]) - float(row["before"])
        assert float(row["over_margin"]) == pytest.approx(gap + float(row["margin"]), abs=1e-5)


def test_missing_data_is_one_line_and_exit_code_2(tmp_path):
    result = study("--data", str(tmp_path), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "imdb_train" in line
    assert "--data" in line
    assert not list(tmp_path.glob("out/*"))
