"""The registered comparison of all methods on sentiment: page, choice of beta, rule of verdict."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "study/on_methods/plan.py").is_file():
    pytest.skip("the study is not beside the tests", allow_module_level=True)
sys.path.insert(0, str(ROOT))
from sparsepo_plugin import registry  # noqa: E402
from sparsepo_plugin.errors import UserError  # noqa: E402
from study.on_methods import page, plan, verdicts  # noqa: E402
from study.rows import write  # noqa: E402

PLAN = (ROOT / "docs/methods-sentiment-plan.md").read_text(encoding="utf-8")
FULL = plan.SIZES["full"]
TWO = dataclasses.replace(FULL, methods=("dpo", "cdpo"))


def numbers(values):
    return ", ".join(f"{value:g}" for value in values)


def test_every_loss_has_a_line_or_is_dpo_here():
    losses = {method.loss for method in plan.METHODS.values()} | {"lddpo"}
    assert losses == set(registry.names())
    for method in plan.METHODS.values():
        registry.get(method.loss).options.build(dict(method.options))


def test_the_plan_has_the_programs_numbers():
    for words in (
        f"{numbers(plan.BETAS)} | nothing",
        f"| {numbers(plan.MEAN_BETAS)} | `dpo` |",
        f"{FULL.prompts} training prompts",
        f"320 pairs are drawn with fresh seeds, and the {FULL.blocks * FULL.block} test prompts",
        f"behind the {FULL.skipped} that",
        f"first study's {FULL.validation}",
        f"({FULL.length} tokens after {FULL.prompt} of a review)",
        f"rate {FULL.rate:.0e}".replace("e-0", "e-"),
        f"{FULL.stops[-1]} steps of {FULL.batch} pairs, looked at after {FULL.stops[0]} and {FULL.stops[1]}",
        f"**Guides** are DPO at beta {FULL.guide[1]:g}",
        "10, 11 and 12: choice",
        f"{len(FULL.points())} runs",
        f"{len(plan.COMPARED)} comparisons",
        f"{FULL.blocks} blocks of {FULL.block} test prompts",
        f"level {plan.LEVEL:g} / {len(plan.COMPARED)}",
    ):
        assert words in PLAN, words
    assert (FULL.seeds, FULL.pairs) == ((10, 11, 12), 320)


def test_the_plans_table_has_every_method_as_it_is_run():
    found = {}
    for line in re.findall(r"^\| `.*$", PLAN, re.MULTILINE):
        names, weights, betas, against, budget = (cell.strip() for cell in line.strip("|").split("|"))
        for name in re.findall(r"`([^`]+)`", names):
            if "each `+ anchor`" in names:
                name = f"{name} + anchor"
            found[name] = (weights, betas, against.strip("`"), budget)
    found = {name: cells for name, cells in found.items() if name not in ("+ anchor", "+ anchor + anchor")}
    kinds = {"none": "", "guides": "of guides", "probabilities": "of guides", "words": "the reward's words"}
    wanted = {
        name: (
            kinds[method.weights],
            numbers(method.betas),
            method.against or "nothing",
            "" if not method.against else "1 nat" if method.budget == 1 else f"{method.budget:g} nats",
        )
        for name, method in plan.METHODS.items()
    }
    assert found == wanted


def rows_of(method, beta, seed, gain, nats=(0.6, 1.8), noise=0.0, blocks=8):
    """Rows of a run whose reward is .5 at the start and rises by ``gain`` a nat."""
    rows = []
    for split in ("validation", "test"):
        for step, kl in zip((8, 20), nats):
            reward = 0.5 + gain * kl
            values = [reward + noise * (-1) ** block for block in range(blocks)]
            rows.append(
                {
                    **{"method": method, "beta": f"{beta:g}", "seed": str(seed), "split": split},
                    **{"step": str(step), "kl": str(kl), "reward": str(reward), "check": str(reward)},
                    "blocks": " ".join(map(str, values)) if split == "test" else "",
                }
            )
    return rows


def references():
    rows = []
    for seed in FULL.seeds:
        for row in rows_of(plan.REFERENCE, 0.0, seed, 0.0):
            if row["step"] == "8":
                rows.append({**row, "step": "0", "kl": "0"})
    return rows


def sweep(gains, nats=(0.6, 1.8), noise=0.01):
    """All runs of two methods; of cdpo, the middle beta gains ``gains`` by seed, the others less."""
    rows = references()
    for place, seed in enumerate(FULL.seeds):
        for beta in plan.BETAS:
            rows += rows_of("dpo", beta, seed, 0.04)
            middle = beta == plan.BETAS[1]
            rows += rows_of("cdpo", beta, seed, gains[place] if middle else 0.0, nats, noise)
    return rows


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((0.08, 0.081, 0.079), verdicts.AHEAD),
        ((0.01, 0.011, 0.009), verdicts.BEHIND),
        ((0.05, 0.12, 0.041), verdicts.OPEN),  # seeds scatter, and all are better
        ((0.04, 0.04, 0.04), verdicts.OPEN),
    ],
)
def test_the_verdict_needs_seeds_and_prompts_to_agree(gains, verdict):
    line = verdicts.judged(sweep(gains), "cdpo", TWO)
    assert (line.beta, line.verdict) == ("0.8", verdict)
    assert line.difference == pytest.approx(np.mean(gains) - 0.04)


def test_prompts_that_scatter_leave_it_open_however_well_the_seeds_agree():
    line = verdicts.judged(sweep((0.08, 0.081, 0.079), noise=0.2), "cdpo", TWO)
    assert line.verdict == verdicts.OPEN
    assert line.seeds.low > 0 > line.prompts.low


def test_a_method_that_falls_short_of_the_budget_on_a_seed_has_no_verdict():
    rows = sweep((0.08, 0.081, 0.079), nats=(0.3, 0.9))
    line = verdicts.judged(rows, "cdpo", TWO)
    assert (line.beta, line.values, line.verdict) == ("", (), verdicts.OPEN)
    assert math.isnan(line.difference)
    # Enough on validation prompts, not enough in the test.
    rows = sweep((0.08, 0.081, 0.079))
    for row in rows:
        if (row["method"], row["seed"], row["split"], row["step"]) == ("cdpo", "11", "test", "20"):
            row["kl"] = "0.99"
    assert verdicts.judged(rows, "cdpo", TWO).verdict == verdicts.OPEN


def test_the_value_is_interpolated_where_the_run_first_passes_the_budget():
    rows = [*references(), *rows_of("dpo", 0.8, 10, 0.04)]
    points = verdicts.curve(rows, "dpo", "0.8", "10", "test")
    assert [row["step"] for row in points] == ["0", "8", "20"]
    assert verdicts.at(points, 1.0, "reward") == pytest.approx([0.54])
    assert verdicts.at(points, 0.3, "blocks") == pytest.approx([0.512] * 8)
    assert verdicts.at(points, 1.8, "reward") is None


def test_there_are_no_lines_before_the_last_run():
    rows = sweep((0.08, 0.081, 0.079))
    assert len(verdicts.lines(rows, TWO)) == 2
    assert verdicts.lines(rows[:-4], TWO) == []
    assert verdicts.missing(rows[:-4], TWO) == [("cdpo", plan.BETAS[-1], FULL.seeds[-1])]


def test_a_csv_of_something_else_is_refused_in_one_line(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("run,seed\ndpo,1\n")
    with pytest.raises(UserError, match="expected a CSV of python -m study"):
        verdicts.load(path)


def test_a_damaged_number_is_named_with_its_line(tmp_path):
    path = tmp_path / "rows.csv"
    rows = sweep((0.08, 0.081, 0.079))
    write(path, rows, list(rows[0]))
    assert verdicts.load(path) == rows
    rows[3]["kl"] = "0.6x"
    write(path, rows, list(rows[0]))
    with pytest.raises(UserError, match=r"line 5: got '0.6x', expected a number"):
        verdicts.load(path)
    write(path, sweep((0.08, 0.081, 0.079)), list(rows[0]))
    text = path.read_text()
    path.write_text(text[: text.rindex(",")])
    with pytest.raises(UserError, match="got rows without blocks"):
        verdicts.load(path)


def test_the_page_says_what_the_lines_say():
    rows = sweep((0.08, 0.081, 0.079))
    found = verdicts.lines(rows, TWO)
    assert page.cells(found)["cdpo"] == ("0.580 ± 0.001", "+0.040, ahead")
    assert page.cells(found)["dpo"] == ("0.540 ± 0.000", "")
    assert page.cells(found)["lddpo"][1].startswith("is DPO there")
    text = page.table(found).splitlines()
    assert text[2].startswith("| dpo | 0.2 | 1 nat | 0.540 ± 0.000 |")
    assert text[3].startswith("| cdpo | 0.8 | 1 nat | 0.580 ± 0.001 |")
    assert text[3].endswith("| **ahead** |")
    assert len({line.count("|") for line in text}) == 1
    assert page.cells([]) == {}
    assert page.UNFINISHED in page.table([])


def test_the_committed_table_is_made_of_the_committed_rows():
    text = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    lines = verdicts.lines(verdicts.load(ROOT / "docs/methods-sentiment.csv"), FULL)
    assert page.table(lines) in text
    for method, cells in page.cells(lines).items():
        if " 3" not in method:  # the table of methods has no row of its own for the stronger anchor
            assert re.search(
                rf"^\| {re.escape(method)} \|.*{re.escape(' | '.join(cells))} \|$", text, re.MULTILINE
            )
