"""make demo-real on tiny models and generated data: from end to end, resumed, refused."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparsepo_plugin.errors import RunFailedError, UserError
from study.data import Pair, Review
from study.real_demo import inputs
from study.real_demo.sizes import SIZES
from study.real_demo.stages import Stages, key_of

SMOKE = SIZES["smoke"]


def demo(data, models, out, **variables):
    words = ["--data", data, "--out", out, "--size", "smoke", "--threads", "1"]
    if models is not None:
        words += ["--model", models / "model", "--encoder", models / "encoder"]
    return subprocess.run(
        [sys.executable, "-m", "study.real_demo", *map(str, words)],
        capture_output=True, text=True, env={**os.environ, **variables},
    )  # fmt: skip


@pytest.mark.slow
def test_the_whole_way_and_a_second_call(made_data, tiny_models, tmp_path):
    done = demo(made_data, tiny_models, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for said in (
        "4-bit weights dequantised",
        "hellaswag",
        "ifeval",
        "win_rate",
        "longer text",
        "names",
        "together",
    ):
        assert said in page
    assert page.count("<iframe") == 5
    assert "http://" not in page.replace("http://www.w3.org/", "")
    rows = [json.loads(line) for line in (tmp_path / "policy" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "eval"] == [0, 2]
    weights = (tmp_path / "policy" / "model.safetensors").stat().st_mtime_ns
    again = demo(made_data, tiny_models, tmp_path)
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("done before") == 5
    assert (tmp_path / "policy" / "model.safetensors").stat().st_mtime_ns == weights


def test_without_weights_one_line_names_the_command(made_data, tmp_path):
    done = demo(made_data, None, tmp_path / "out", SPARSEPO_REAL=str(tmp_path / "empty"))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith("make it: make real")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("preference/hh_helpful_train.jsonl", "hh_helpful_train.jsonl.gz: no such file"),
        ("eval/hellaswag_val.jsonl", "hellaswag_val.jsonl.gz: no such file"),
        ("eval/ifeval.jsonl", "ifeval.jsonl.gz: no such file"),
    ],
)
def test_missing_data_is_one_line(made_data, tmp_path, broken, said):
    shutil.copytree(made_data, tmp_path / "data")
    (tmp_path / "data" / broken).unlink()
    with pytest.raises(UserError, match=said):
        inputs.write_inputs(tmp_path / "data", tmp_path / "out", SMOKE, len, 0)


def test_too_few_short_pairs_are_said_with_their_number(made_data, tmp_path):
    sizes = dataclasses.replace(SMOKE, pairs=1000)
    with pytest.raises(UserError, match="got 40 that are short enough, expected at least 1000"):
        inputs.write_inputs(made_data, tmp_path, sizes, len, 0)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_prompt_is_in_two_parts_and_long_ones_are_left_out(made_data, tmp_path):
    inputs.write_inputs(made_data, tmp_path, dataclasses.replace(SMOKE, prompt=70), len, 0)
    parts = {name: lines(tmp_path / f"{name}.jsonl") for name in ("train", "judge", "judge_valid", "people")}
    prompts = [{row["prompt"] for row in rows} for rows in parts.values()]
    assert sum(map(len, prompts)) == len(set().union(*prompts))
    assert [len(rows) for rows in parts.values()] == [8, 8, 8, 8]
    assert max(len(row["prompt"]) for row in parts["train"]) <= 70
    assert len(lines(tmp_path / "prompts.jsonl")) == 4
    assert not any("TL;DR" in row["document"] for row in lines(tmp_path / "documents.jsonl"))


def test_the_same_seed_gives_the_same_inputs(made_data, tmp_path):
    for name in ("a", "b"):
        inputs.write_inputs(made_data, tmp_path / name, SMOKE, len, 3)
    for path in (tmp_path / "a").glob("*.jsonl"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_finished_stages_are_kept_until_something_changes(tmp_path):
    seen = []
    for key in ("one", "one", "two"):
        stages = Stages(tmp_path, key, 2, 1)
        for name in ("first", "second"):
            stages.run(name, lambda name=name: seen.append(name))
    assert seen == ["first", "second", "first", "second"]


def test_a_stage_that_fails_is_run_again_and_what_follows_too(tmp_path):
    def fail():
        raise RunFailedError("no")

    stages = Stages(tmp_path, "key", 2, 1)
    stages.run("first", lambda: None)
    with pytest.raises(RunFailedError):
        stages.run("second", fail)
    again = Stages(tmp_path, "key", 2, 1)
    assert set(again.done) == {"first"}


@pytest.mark.parametrize("hollow", ["", "[]", "{}", '{"key": "key", "done": 3}'])
def test_a_memory_that_cannot_be_read_runs_everything(tmp_path, hollow):
    (tmp_path / "stages.json").write_text(hollow)
    assert Stages(tmp_path, "key", 2, 1).done == {}


def test_the_key_is_of_settings_and_contents(tmp_path):
    path = tmp_path / "file"
    path.write_text("a")
    first = key_of({"seed": 0}, [path])
    assert key_of({"seed": 1}, [path]) != first
    path.write_text("b")
    assert key_of({"seed": 0}, [path]) != first


def test_a_tool_that_fails_is_one_line(tmp_path, capfd):
    with pytest.raises(RunFailedError, match="eval-harness gate: got exit code 2; its message is above"):
        Stages(tmp_path, "key", 1, 1).tool(["eval-harness", "gate", tmp_path / "none"])
    assert "Traceback" not in capfd.readouterr().err


def test_a_reward_head_learns_and_is_a_plain_folder(tiny_models, tmp_path):
    from eval_harness.judges import build_judge
    from eval_harness.judges.types import Question
    from study.reward_head import RewardHead, train_on_labels, train_on_pairs

    pairs = [Pair(f"dog {i}", " good good film", " bad bad house") for i in range(24)]
    head = RewardHead(tiny_models / "encoder", 32)
    found = train_on_pairs(head, pairs[:16], pairs[16:], 0)
    assert found == {"pairs": 16.0, "train": 1.0, "validation": 1.0}
    head.save(tmp_path / "judge")
    judge = build_judge("reward", {"model": str(tmp_path / "judge"), "max_length": 32})
    field = {"prompt": "dog 3", "first": " bad bad house", "second": " good good film"}
    assert [answer.value for _, answer in judge.answers([Question(field)])] == [0.0]
    texts = [Review("good film", True), Review("bad house", False)] * 8
    other = RewardHead(tiny_models / "encoder", 32)
    assert train_on_labels(other, texts[:8], texts[8:], 0)["validation"] == 1.0


def test_the_default_output_lies_where_git_does_not_look():
    assert "runs" in (Path(__file__).parents[2] / ".gitignore").read_text()
