"""docs/modes.md says of every mode what the tests show, and nothing more."""

from __future__ import annotations

import re
from pathlib import Path

import mode_runs
import pytest
import test_refused_modes as refused
from mode_runs import NOWHERE

from sparsepo_plugin.adapters.openrlhf import flags

DOCUMENT = Path(__file__).parents[2] / "docs/modes.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in DOCUMENT.read_text(encoding="utf-8").split("\n## ")[0].splitlines()
    if line.startswith("|") and not line.startswith(("| mode", "| ---"))
]
RUNS = {*mode_runs.single_runs(NOWHERE), *mode_runs.double_runs(NOWHERE), "cells", "half"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_rows_state_is_what_its_run_or_test_shows(row):
    _, _, state, evidence = row
    names = set(filter(None, evidence.split(", ")))
    if state == "tested":
        assert names
        assert names <= RUNS
    elif state == "refused":
        assert names
        assert names <= set(refused.REFUSED)
    else:
        assert state.startswith("untested here")
        assert not names


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_rows_flags_exist(row):
    known = flags.parse([]).arguments
    for flag in re.findall(r"--([\w.]+)", row[1]):
        value = known
        for part in flag.split("."):
            value = getattr(value, part)


def test_every_mode_that_is_run_or_refused_has_a_row():
    named = {name for row in ROWS for name in row[3].split(", ")}
    assert set(mode_runs.single_modes(NOWHERE)) | set(mode_runs.double_modes()) <= named
    assert set(refused.REFUSED) - named == {"tensor-parallel-processes", "unknown-stage"}


def test_the_readme_points_there():
    assert "(docs/modes.md)" in (DOCUMENT.parents[1] / "README.md").read_text(encoding="utf-8")
