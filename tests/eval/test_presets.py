"""Presets as data: every shipped one parses, fits lm-eval 0.4.13, and mistakes are named."""

from pathlib import Path

import pytest
import yaml

from eval_harness.errors import UserError
from eval_harness.reasoning.preset import ReasoningPreset
from eval_harness.reasoning.tasks import shipped_paths
from eval_harness.run import registry
from eval_harness.run.preset import preset_names, read_preset
from eval_harness.run.runner import load_suite_preset

NAMES = preset_names("reasoning")


def load_preset(name):
    return load_suite_preset("reasoning", name)


def parse_preset(raw, name):
    return ReasoningPreset.parse(raw, name)


def quick():
    return read_preset("quick")[0]


class Loader(yaml.SafeLoader):
    """YAML with lm-eval's !function tag ignored."""


Loader.add_constructor("!function", lambda loader, node: None)


def shipped(path):
    """A shipped definition with its includes merged, local keys winning."""
    found = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    if "include" in found:
        found = {**shipped(Path(path).parent / found.pop("include")), **found}
    return found


def test_the_two_shipped_presets_are_there():
    assert {"leaderboard", "quick"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_names_shipped_tasks_and_metrics(name):
    preset = load_preset(name)
    assert preset.suite in registry.names()
    paths = shipped_paths(preset)
    for task, group in preset.tasks().items():
        config = shipped(paths[task])
        metrics = {m["metric"] for m in config["metric_list"]}
        filters = {f["name"] for f in config.get("filter_list", [{"name": "none"}])}
        assert {tuple(m.split(",")) for m in group.metrics} <= {(m, f) for m in metrics for f in filters}, (
            task
        )
        if isinstance(config.get("doc_to_choice"), list) and group.tasks[task]:
            assert len(config["doc_to_choice"]) == group.tasks[task], task


def test_leaderboard_shots_are_the_shipped_ones_and_nothing_is_limited():
    preset = load_preset("leaderboard")
    paths = shipped_paths(preset)
    for task, group in preset.tasks().items():
        assert group.shots == shipped(paths[task]).get("num_fewshot", 0), task
        assert group.limit is None
    assert [g.name for g in preset.groups] == ["ifeval", "bbh", "gpqa", "math_hard", "mmlu_pro", "musr"]


def test_leaderboard_holds_every_task_of_lm_evals_own_group():
    import lm_eval

    folder = Path(lm_eval.__file__).parent / "tasks" / "leaderboard"
    names = [yaml.load(p.read_text(), Loader).get("task") for p in folder.rglob("*.yaml")]
    assert {n for n in names if isinstance(n, str)} == set(load_preset("leaderboard").tasks())


def test_unknown_names_get_near_matches():
    with pytest.raises(UserError, match="leaderboard"):
        load_preset("leaderbord")
    with pytest.raises(UserError, match="gsm8k"):
        load_preset("quick").select(["gsm9k"], None)
    with pytest.raises(UserError, match="reasoning"):
        registry.get("reasonin")


def test_a_misspelt_task_in_a_preset_gets_near_matches():
    raw = quick()
    raw["groups"] = raw["groups"][:1]
    raw["groups"][0]["tasks"] = {"gsm8": 0}
    with pytest.raises(UserError, match=r"gsm8; .*gsm8k"):
        shipped_paths(parse_preset(raw, "mine"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verison": 1}, "verison.*version"),
        ({"version": 0}, "version"),
        ({"version": True}, "version"),
        ({"groups": []}, "at least one task"),
    ],
)
def test_mistakes_in_a_preset_are_named(change, message):
    raw = quick()
    with pytest.raises(UserError, match=message):
        parse_preset({**raw, **change}, "mine")


@pytest.mark.parametrize(
    ("key", "value"), [("limit", 0), ("shots", -1), ("normalise", "no"), ("tasks", {"gsm8k": 1})]
)
def test_mistakes_in_a_group_are_named(key, value):
    raw = quick()
    raw["groups"][0][key] = value
    with pytest.raises(UserError, match=key if key != "tasks" else "gsm8k"):
        parse_preset(raw, "mine")


def test_selection_by_group_task_and_limit():
    preset = load_preset("leaderboard").select(["musr", "leaderboard_bbh_navigate"], 3)
    assert len(preset.tasks()) == 4
    assert {g.limit for g in preset.groups} == {3}
    assert load_preset("leaderboard").average
    assert not preset.average
    assert load_preset("quick").select(["gsm8k"], 1000).groups[0].limit == 100


def test_duplicate_suites_name_both_owners():
    registry.names()
    with pytest.raises(ValueError, match="reasoning"):
        registry.register_suite("reasoning")(registry.Suite)
