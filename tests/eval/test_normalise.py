"""Leaderboard normalisation against its documentation and lm-eval's own task definitions."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_harness.reasoning.lm_eval_results import group_scores
from eval_harness.reasoning.normalise import lower_bound, mean, normalise, weighted_mean
from eval_harness.run.runner import load_suite_preset
from eval_harness.types import Score

# Number of choices per BBH subtask as printed in huggingface/leaderboards,
# open_llm_leaderboard/normalization.md.
BBH = {
    "sports_understanding": 2,
    "tracking_shuffled_objects_three_objects": 3,
    "navigate": 2,
    "snarks": 2,
    "date_understanding": 6,
    "reasoning_about_colored_objects": 18,
    "object_counting": 19,
    "logical_deduction_seven_objects": 7,
    "geometric_shapes": 11,
    "web_of_lies": 2,
    "movie_recommendation": 6,
    "logical_deduction_five_objects": 5,
    "salient_translation_error_detection": 6,
    "disambiguation_qa": 3,
    "temporal_sequences": 4,
    "hyperbaton": 2,
    "logical_deduction_three_objects": 3,
    "causal_judgement": 2,
    "formal_fallacies": 2,
    "tracking_shuffled_objects_seven_objects": 7,
    "ruin_names": 6,
    "penguins_in_a_table": 5,
    "boolean_expressions": 2,
    "tracking_shuffled_objects_five_objects": 5,
}


def test_documented_gpqa_example():
    # The documentation's: raw 0.6, four choices: (0.6 - 0.25) / (1 - 0.25) * 100 = 46.67.
    assert normalise(0.6, 4) == pytest.approx(46.6667, abs=1e-4)


def test_documented_musr_example():
    # MuSR, raw 0.7, 0.4, 0.6 with 2, 5, 3 choices: 40, 25, 40; mean 35.
    values = [normalise(0.7, 2), normalise(0.4, 5), normalise(0.6, 3)]
    assert values == pytest.approx([40.0, 25.0, 40.0])
    assert mean(values) == pytest.approx(35.0)


def test_below_chance_is_zero_and_generation_has_no_chance_level():
    assert normalise(0.2, 4) == 0.0
    assert normalise(0.2, 0) == pytest.approx(20.0)


def test_all_24_bbh_lower_bounds_equal_documentation_and_task_definitions():
    import lm_eval
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML with lm-eval's !function tag ignored."""

    Loader.add_constructor("!function", lambda loader, node: None)
    group = next(g for g in load_suite_preset("reasoning", "leaderboard").groups if g.name == "bbh")
    ours = {task.removeprefix("leaderboard_bbh_"): choices for task, choices in group.tasks.items()}
    assert ours == BBH
    folder = Path(lm_eval.__file__).parent / "tasks" / "leaderboard" / "bbh_mc"
    for task, choices in BBH.items():
        shipped = yaml.load((folder / f"{task}.yaml").read_text(), Loader)["doc_to_choice"]
        assert lower_bound(choices) == 1 / len(shipped), task


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gpqa", {4}), ("math_hard", {0}), ("mmlu_pro", {10}), ("ifeval", {0}), ("musr", {2, 5, 3})],
)
def test_other_lower_bounds(name, expected):
    group = next(g for g in load_suite_preset("reasoning", "leaderboard").groups if g.name == name)
    assert set(group.tasks.values()) == expected


def test_group_rules_by_hand():
    preset = load_suite_preset("reasoning", "leaderboard")
    scores = [
        Score(task, metric, 0.7, None, 100 if "murder" in task else 300, normalised=0.0)
        for task, group in preset.tasks().items()
        for metric in group.metrics
    ]
    grouped = group_scores(scores, preset)
    assert all(s.is_group and s.main for s in grouped)
    found = {s.task: s for s in grouped}
    # Subtasks first: (40 + 62.5 + 55) / 3, whatever the sizes.
    assert found["musr"].normalised == pytest.approx((40 + 62.5 + 55) / 3)
    assert found["gpqa"].normalised == pytest.approx(60.0)
    assert found["mmlu_pro"].normalised == pytest.approx(100 * 0.6 / 0.9)
    six = [70.0, found["bbh"].normalised, 60.0, 70.0, 100 * 0.6 / 0.9, (40 + 62.5 + 55) / 3]
    assert found["average"].normalised == pytest.approx(sum(six) / 6)


def test_weighted_mean_by_hand():
    assert weighted_mean([1.0, 0.0], [1, 3]) == 0.25


@pytest.mark.parametrize("bad", [-1, 1])
def test_impossible_choice_counts_are_refused(bad):
    with pytest.raises(ValueError, match="num_choices"):
        lower_bound(bad)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(2, 30))
def test_normalise_is_monotone_and_bounded(a, b, choices):
    low, high = sorted((a, b))
    assert 0.0 <= normalise(low, choices) <= normalise(high, choices) <= 100.0 + 1e-9
