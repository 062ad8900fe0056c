"""Metrics that are better when smaller: from lm-eval's tables to the verdict and the tables that show it."""

import dataclasses
import json
import os
import stat

import pytest

from eval_harness.cli.app import main
from eval_harness.files.writing import write_text
from eval_harness.reasoning.lm_eval_results import group_scores, task_scores
from eval_harness.reasoning.preset import ReasoningPreset

from .runs import make_run, score_of, values

PRESET = ReasoningPreset.parse(
    {
        "version": 1,
        "suite": "reasoning",
        "title": "stereotypes",
        "sources": ["crows_pairs"],
        "groups": [
            {
                "name": "crows",
                "metrics": ["pct_stereotype,none"],
                "shots": 0,
                "normalise": "group",
                "columns": ["sent_more", "sent_less"],
                "cluster": "sent_more",
                "tasks": {"crows_pairs_english": 2},
            }
        ],
    },
    "crows",
)
TABLE = {
    "crows_pairs_english": {"alias": "c", "pct_stereotype,none": 0.464, "pct_stereotype_stderr,none": 0.01}
}


@pytest.mark.parametrize(("known", "upwards"), [({"pct_stereotype": False}, False), ({}, True)])
def test_the_direction_is_lm_evals(known, upwards):
    sizes, versions = {"crows_pairs_english": 60}, {"crows_pairs_english": "1.0"}
    scores = task_scores(TABLE, PRESET, sizes, versions, {}, {"crows_pairs_english": known})
    group = group_scores(scores, PRESET)[0]
    assert [score.higher_is_better for score in (*scores, group)] == [upwards, upwards]
    # The leaderboard's scale is one of accuracies: 0 would read as "cannot get worse".
    assert [score.normalised is None for score in (*scores, group)] == [not upwards] * 2


@pytest.mark.parametrize(("better", "code"), [(True, 0), (False, 1)])
def test_a_fall_of_a_metric_that_is_better_when_smaller_is_kept(better, code, tmp_path, capsys):
    less, more = values(right=120, lost=80, gained=2, wrong=198)
    ours, theirs = (less, more) if better else (more, less)
    for folder, of_run in (("a", ours), ("b", theirs)):
        score = dataclasses.replace(score_of("crows", of_run), higher_is_better=False, normalised=None)
        make_run(tmp_path / folder, {"crows": of_run}, folder, scores=(score,))
    gates = tmp_path / "gates.yaml"
    gates.write_text("version: 1\nmargin: 0.05\ndiscordance: 0.3\ngates: {crows: {}}\n")
    words = ["gate", tmp_path / "a", "--baseline", tmp_path / "b", "--gates", gates]
    assert main([*map(str, words)]) == code
    (gate,) = json.loads((tmp_path / "a" / "report" / "report.json").read_text())["gates"]
    means = [sum(of_run) / len(of_run) for of_run in (theirs, ours)]
    assert [gate["paired"]["baseline"], gate["paired"]["candidate"]] == pytest.approx(means)
    assert any("smaller is better" in note for note in gate["notes"])
    assert "smaller is better" in (tmp_path / "a" / "report" / "report.md").read_text()


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_results_are_as_readable_as_the_users_files(mask, tmp_path):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "result.json", "{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "result.json").stat().st_mode) == 0o666 & ~mask
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
