"""What a step of every method costs: measured on a tiny model, shown beside the methods."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import methods_cost, planted

ROOT = Path(__file__).parents[2]


def test_ratios_are_of_the_same_round():
    (base, other) = methods_cost.rows_of({"dpo": [1.0, 2.0, 4.0], "simpo": [0.5, 1.5, 2.0]})
    assert (base["ratio"], base["ratio_least"], base["ratio_most"]) == ("1.000", "1.000", "1.000")
    assert (other["ratio"], other["ratio_least"], other["ratio_most"]) == ("0.500", "0.500", "0.750")
    assert (other["seconds"], other["rounds"]) == ("1.5000", "3")


def test_every_method_of_the_table_has_a_step(tmp_path):
    """Whatever a loss needs is supplied: weights, states, activations, entropy, masks, an anchor."""
    out = tmp_path / "cost.csv"
    command = [sys.executable, str(ROOT / "benchmarks/methods_cost.py"), "--tiny", "--rounds", "1"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {row["method"]: float(row["ratio"]) for row in csv.DictReader(out.open())}
    assert set(rows) == {name for name in planted.METHODS if not name.startswith("oracle")}
    assert min(rows.values()) > 0


@pytest.mark.parametrize(
    ("reads", "passes", "models"),
    [
        ("nothing", "policy", "none"),
        ("nothing", "policy, reference, KL, mask module", "reference, mask module"),
        ("weights of guides", "policy, reference", "reference, guides, before"),
        ("weights of guides", "policy", "guides, before"),
    ],
)
def test_extra_models_are_those_beside_the_policy(reads, passes, models):
    assert planted.extra_models(reads, passes) == models


def test_the_table_shows_a_cost_where_there_is_one():
    rows = [{"run": "dpo beta 0.5", "seed": "0", "shift_at_0.5": "0.7"}]
    text = planted.methods(rows, [{"method": "dpo", "ratio": "1.000"}])
    assert "| dpo | nothing | reference | 1.00 | dpo beta 0.5 | 1 |" in text
    assert "| cdpo | nothing | reference |  | not run | | | |  |  |" in text
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_the_table_shows_what_came_out_on_film_reviews():
    rows = [{"run": "dpo beta 0.5", "seed": "0", "shift_at_0.5": "0.7"}]
    text = planted.methods(rows, [], {"dpo": ("0.560", ""), "cdpo": ("0.555", "-0.005, cannot be told")})
    assert "| dpo beta 0.5 | 1 | 0.70 |  | 0.560 |  |" in text
    assert "| not run | | | | 0.555 | -0.005, cannot be told |" in text
