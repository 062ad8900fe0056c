"""The registered comparison of mask and anchor: its page, its choice, its test."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks/planted_mask_anchor.py").is_file():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(ROOT))
from benchmarks import planted_mask_anchor as study  # noqa: E402

PLAN = (ROOT / "docs/mask-anchor-plan.md").read_text(encoding="utf-8")


def row(name, seed, value):
    return {"run": name, "seed": str(seed), study.OUTCOME: "" if value is None else str(value)}


def sweep_rows(best):
    """Selection rows: the given setting of every family is the best, a better one missed a seed."""
    rows = []
    for family in study.FAMILIES:
        for setting in study.sweep(family):
            for seed in study.SELECTION:
                value = 0.9 if setting == best[family] else 0.5
                if setting == study.Setting(family, 0.1, 3.0):
                    value = None if seed == study.SELECTION[0] else 2.0
                rows.append(row(setting.name, seed, value))
    return rows


def test_the_plan_has_the_programs_numbers():
    for numbers, words in (
        (study.BETAS, r"beta ([\d., ]+);"),
        (study.ANCHORS, r"anchor ([\d., ]+), uniform"),
    ):
        assert tuple(float(x) for x in re.search(words, PLAN)[1].split(", ")) == numbers
    for words, seeds in (("Selection", study.SELECTION), ("Test", study.TEST)):
        assert f"**{words} seeds** {seeds[0]} to {seeds[-1]}" in PLAN
    assert f"level {study.LEVEL}" in PLAN
    assert f"more than {study.MISSING} of {len(study.TEST)}" in PLAN
    runs = len(study.FAMILIES) * len(study.BETAS) * len(study.ANCHORS) * len(study.SELECTION)
    assert f"{runs} runs" in PLAN
    assert f"{3 * len(study.TEST)} runs" in PLAN
    assert f"`{study.CONTEXT}`" in PLAN
    assert not set(study.SELECTION) & set(study.TEST)
    assert min(study.SELECTION) > 9  # planted.md has used 0 to 9


def test_the_sweep_comes_first_and_a_setting_that_missed_a_seed_is_not_chosen():
    best = {family: study.Setting(family, 0.5, 1.0) for family in study.FAMILIES}
    assert len(study.missing([])) == 80
    rows = sweep_rows(best)
    assert len(study.missing(rows[:-1])) == 1
    assert {family: study.choose(rows, family) for family in study.FAMILIES} == best
    todo = study.missing(rows)
    assert len(todo) == 60
    assert {name for name, _ in todo} == {*(setting.name for setting in best.values()), study.CONTEXT}


def test_sign_flips_are_counted_exactly():
    values = [0.3, -0.1, 0.2, 0.25, 0.05]
    flips = [sum(s * v for s, v in zip(signs, values)) for signs in itertools.product((1, -1), repeat=5)]
    want = sum(abs(total) >= abs(sum(values)) - 1e-12 for total in flips) / len(flips)
    assert study.sign_flip_p(values) == want
    assert study.sign_flip_p([0.1] * 20) == 2 / 2**20


@pytest.mark.parametrize(
    ("shift", "lost", "word"),
    [(0.2, 0, "ahead"), (-0.2, 3, "behind"), (0.0, 0, "no difference shown"), (0.2, 4, "cannot be told")],
)
def test_the_verdict_follows_the_plan(shift, lost, word):
    best = {family: study.Setting(family, 0.5, 1.0) for family in study.FAMILIES}
    rows = sweep_rows(best)
    for number, seed in enumerate(study.TEST):
        noise = 0.05 if number % 2 else -0.05
        rows.append(row(best["dpo"].name, seed, 0.8))
        rows.append(row(best["sparsepo"].name, seed, None if number < lost else 0.8 + shift + noise))
        rows.append(row(study.CONTEXT, seed, 1.2))
    assert study.judge(rows, best).word == word
    assert f"**{word}**" in study.page(rows)
    assert "no verdict yet" in study.page(rows[:-1])
