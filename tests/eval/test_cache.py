"""Content decides what is reused: finished runs and answers are, another model's or setting's never."""

import json
import shutil

import pytest

from eval_harness.models import engines
from eval_harness.run.folder import read_items, read_result

from .conftest import BBH

FAST = ["--dtype", "float32", "--generation", "max_gen_toks=12"]


def test_a_second_run_loads_no_model(cli, model_a, tmp_path, no_model):
    args = ["--model", model_a, "--tasks", BBH, *FAST]
    assert cli(*args) == 0
    no_model()
    assert cli(*args) == 0
    assert cli(*args, out=tmp_path / "elsewhere") == 0
    assert read_result(tmp_path / "elsewhere") == read_result(tmp_path / "out")


def test_two_models_never_share_an_answer(cli, model_a, model_b, tmp_path):
    args = ["--tasks", f"{BBH},ifeval", *FAST]
    assert cli("--model", model_a, *args) == 0
    assert cli("--model", model_b, *args, out=tmp_path / "b") == 0
    result = read_result(tmp_path / "b")
    assert result.counts["reused"] == 0
    fresh = tmp_path / "fresh"
    assert cli("--model", model_b, *args, out=fresh, cache=tmp_path / "other") == 0
    outputs = {name: [i.outputs for i in read_items(tmp_path / name)] for name in ("out", "b", "fresh")}
    assert outputs["b"] == outputs["fresh"]
    assert outputs["b"] != outputs["out"]


@pytest.mark.parametrize(
    "change",
    [
        ["--dtype", "bfloat16"],
        ["--chat-template"],
        ["--batch-size", "4"],
        ["--max-length", "4096"],
        ["--seed", "3"],
    ],
)
def test_changed_settings_re_evaluate(cli, model_a, tmp_path, change):
    args = ["--model", model_a, "--tasks", BBH, "--dtype", "float32"]
    assert cli(*args) == 0
    assert cli(*args, *change, out=tmp_path / "two") == 0
    first, second = read_result(tmp_path / "out"), read_result(tmp_path / "two")
    assert first.key != second.key  # else the first run's result would have been handed out again
    assert (second.counts["reused"], second.counts["computed"]) == (0, second.counts["requests"])


def test_changed_generation_settings_re_evaluate_generated_answers_only(cli, model_a, tmp_path):
    args = ["--model", model_a, "--tasks", f"{BBH},ifeval"]
    assert cli(*args, "--generation", "max_gen_toks=12") == 0
    assert cli(*args, "--generation", "max_gen_toks=9", out=tmp_path / "two") == 0
    counts = read_result(tmp_path / "two").counts
    assert (counts["computed"], counts["reused"]) == (8, 16)  # 8 prompts of IFEval; 8 BBH items of 2 choices


def test_changed_task_version_re_evaluates(cli, model_a, tmp_path, monkeypatch):
    from eval_harness.reasoning import tasks

    args = ["--model", model_a, "--tasks", f"{BBH},leaderboard_bbh_navigate", *FAST]
    assert cli(*args) == 0
    written = tasks.definition

    def next_version(task, *rest):
        return written(task, *rest) + ("metadata: {version: 2.0}\n" if task == BBH else "")

    monkeypatch.setattr(tasks, "definition", next_version)
    assert cli(*args, out=tmp_path / "two") == 0
    result = read_result(tmp_path / "two")
    assert (result.counts["computed"], result.counts["reused"]) == (16, 16)
    assert result.score(BBH, "acc_norm,none").version == "2.0"


def test_a_larger_limit_asks_only_for_the_new_items(cli, model_a, tmp_path):
    args = ["--model", model_a, "--tasks", BBH, *FAST]
    assert cli(*args, "--limit", "3") == 0
    assert cli(*args, "--limit", "5", out=tmp_path / "two") == 0
    assert read_result(tmp_path / "two").counts["computed"] == 2 * 2
    first, second = read_items(tmp_path / "out"), read_items(tmp_path / "two")
    assert [i.prompt_hash for i in first] == [i.prompt_hash for i in second[:3]]


def test_baseline_is_measured_once_for_many_candidates(cli, model_a, model_b, tmp_path, monkeypatch):
    tuned = shutil.copytree(model_b, tmp_path / "tuned")
    config = json.loads((tuned / "config.json").read_text())
    (tuned / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    loads = []
    load = engines.load_engine
    monkeypatch.setattr(engines, "load_engine", lambda ref, *a: loads.append(ref.path.name) or load(ref, *a))
    for number, candidate in enumerate((model_b, tuned)):
        args = ["--model", candidate, "--baseline", model_a, "--tasks", BBH, *FAST]
        assert cli(*args, out=tmp_path / str(number)) == 0
    assert loads == ["a", "b", "tuned"]
    base = [read_items(tmp_path / n / "baseline") for n in "01"]
    assert base[0] == base[1]
    mine = read_items(tmp_path / "0")
    assert [(i.task, i.doc_id, i.prompt_hash) for i in mine] == [
        (i.task, i.doc_id, i.prompt_hash) for i in base[0]
    ]


def test_no_cache_keeps_nothing(cli, model_a, tmp_path):
    args = ["--model", model_a, "--tasks", BBH, *FAST, "--no-cache"]
    assert cli(*args) == 0
    assert cli(*args, out=tmp_path / "two") == 0
    assert read_result(tmp_path / "two").counts["reused"] == 0
    assert not (tmp_path / "cache").exists()
