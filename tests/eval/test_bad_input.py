"""Bad input: exit code 2, one line, before any generation, nothing half-written."""

import json
import shutil
from collections import namedtuple

import pytest

from eval_harness.models import engines
from eval_harness.models.answer_cache import AnswerCache

from . import tiny
from .conftest import BBH


@pytest.fixture
def refused(cli, capfd, tmp_path, monkeypatch):
    """refused(*args): run, and check the contract; returns the one line."""

    def call(*args, loads=False, **kwargs):
        asked = []
        monkeypatch.setattr(AnswerCache, "answer", lambda *a: asked.append(a))
        if not loads:
            monkeypatch.setattr(engines, "load_engine", lambda *a: asked.append(a))
        capfd.readouterr()
        assert cli(*args, **kwargs) == 2
        errors = capfd.readouterr().err
        lines = [line for line in errors.splitlines() if line.startswith("eval-harness: ")]
        assert len(lines) == 1, errors
        assert "Traceback" not in errors
        assert not asked
        assert not (tmp_path / "out").exists()
        return lines[0]

    return call


@pytest.fixture
def copy(model_a, tmp_path):
    return shutil.copytree(model_a, tmp_path / "copy")


def test_no_such_model(refused, tmp_path):
    line = refused("--model", tmp_path / "nowhere", "--tasks", BBH)
    assert "no such model" in line
    assert "expected" in line
    assert "remedy" in line


def test_truncated_weights(refused, copy):
    raw = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(raw[:-10])
    assert "corrupt weights" in refused("--model", copy, "--tasks", BBH)


def test_weights_that_miss_a_tensor(refused, copy):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    line = refused("--model", copy, "--tasks", BBH)
    assert "1 tensors missing" in line
    assert "up_proj" in line


def test_weights_of_another_shape(refused, copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    assert "does not make a causal model" in refused("--model", copy, "--tasks", BBH)


def test_weights_that_are_not_finite(refused, copy):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    tensors["lm_head.weight"][3, 3] = float("nan")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    # only the values tell: noticed after loading, still before any generation
    assert "lm_head.weight holds NaN" in refused("--model", copy, "--tasks", BBH, loads=True)


def test_unknown_architecture(refused, copy):
    (copy / "config.json").write_text(json.dumps({"model_type": "nosuch"}))
    assert "does not make a causal model" in refused("--model", copy, "--tasks", BBH)


def test_no_chat_template_where_one_is_asked_for(refused, copy):
    (copy / "chat_template.jinja").unlink()
    assert "no chat template" in refused("--model", copy, "--tasks", BBH, "--chat-template")


def test_unreadable_tokenizer(refused, copy):
    (copy / "tokenizer.json").write_text("{}")
    assert "tokenizer cannot be read" in refused("--model", copy, "--tasks", BBH)


def with_file(data, tmp_path, text):
    shutil.copytree(data.parent, tmp_path / "data")
    (tmp_path / "data" / "bbh" / "boolean_expressions.jsonl").write_text(text)
    mapping = (tmp_path / "data" / "data.yaml").read_text().replace("{1}.jsonl.gz", "{1}.jsonl")
    (tmp_path / "data" / "data.yaml").write_text(mapping)
    return tmp_path / "data" / "data.yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty data"),
        ('{"question": "x"}\n', r"wrong columns for leaderboard_bbh_boolean_expressions"),
        ("no json\n", "unreadable data file"),
        ("[1]\n", "row 1: int instead of an object"),
    ],
)
def test_bad_data_files(refused, model_a, data, tmp_path, text, message):
    line = refused("--model", model_a, "--tasks", BBH, mapping=with_file(data, tmp_path, text))
    assert message in line


def test_a_data_file_that_is_not_there(refused, model_a):
    assert "causal_judgement" in refused("--model", model_a, "--tasks", "leaderboard_bbh_causal_judgement")


def test_fewer_few_shot_rows_than_shots(refused, model_a, data):
    text = data.read_text().replace("take: 6", "take: 2")
    (data.parent / "few.yaml").write_text(text)
    line = refused(
        "--model",
        model_a,
        "--suites",
        "reasoning:quick",
        "--tasks",
        "gsm8k",
        mapping=data.parent / "few.yaml",
    )
    assert "cannot build the prompts of task gsm8k" in line


def test_data_neither_local_nor_reachable(refused, model_a):
    # the mapping does not name hellaswag, and the hub is switched off
    line = refused("--model", model_a, "--suites", "reasoning:quick", "--tasks", "hellaswag")
    assert "cannot load the data of task hellaswag" in line
    assert "--data" in line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--tasks", "leaderboard_bbh_bolean_expressions"],
            "did you mean leaderboard_bbh_boolean_expressions",
        ),
        (["--suites", "reasonning"], "reasoning"),
        (["--suites", "reasoning:quik"], "did you mean quick"),
        (["--limit", "0"], "--limit"),
        (["--limit", "x"], "--limit"),
        (["--batch-size", "0"], "--batch-size"),
        (["--generation", "oops"], "KEY=VALUE"),
        (["--backend", "tensorrt"], "hf or vllm"),
        (["--data-parallel", "2"], "accelerate launch --num_processes 2"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_arguments(refused, model_a, args, message):
    assert message in refused("--model", model_a, *args)


def test_missing_backend(refused, model_a, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else found(name, *a)
    )
    assert "vllm is not installed" in refused("--model", model_a, "--tasks", BBH, "--backend", "vllm")


@pytest.mark.parametrize(
    ("task", "module", "extra"), [("math_hard", "math_verify", "math"), ("ifeval", "langdetect", "ifeval")]
)
def test_missing_packages(refused, model_a, monkeypatch, task, module, extra):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == module else found(name, *a)
    )
    line = refused("--model", model_a, "--tasks", task)
    assert f"no {module}" in line
    assert f"lm-eval[{extra}]" in line


def test_another_lm_eval(refused, model_a, monkeypatch):
    monkeypatch.setattr("eval_harness.reasoning.preflight.LM_EVAL", "0.5.0")
    assert "expected: 0.5.0" in refused("--model", model_a, "--tasks", BBH)


def test_punkt_missing_and_no_standin(model_a, data, tmp_path, capfd, monkeypatch):
    import nltk

    from eval_harness.cli.app import main

    monkeypatch.setattr(nltk.data, "path", [])
    args = [
        "run",
        "--model",
        model_a,
        "--tasks",
        "ifeval",
        "--data",
        data,
        "--cache",
        tmp_path / "c",
        "--out",
        tmp_path / "o",
    ]
    assert main([str(a) for a in args]) == 2
    assert "--punkt-standin" in capfd.readouterr().err
    # and a stand-in left on NLTK's path by another run is not taken for the real data
    from eval_harness.reasoning.punkt import find_punkt, install_standin

    install_standin(tmp_path / "nltk")
    assert find_punkt() == "standin"
    assert main([str(a) for a in args]) == 2


def test_no_disk_space_in_preflight(refused, model_a, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    assert "no disk space" in refused("--model", model_a, "--tasks", BBH)


def test_disk_full_while_writing_leaves_nothing_half_written(cli, model_a, capfd, tmp_path, monkeypatch):
    import errno
    import os

    from eval_harness.files import writing as output

    sync = os.fsync

    def full(handle):
        if any(p.name.startswith(".items") for p in (tmp_path / "out").glob(".*")):
            raise OSError(errno.ENOSPC, "No space left on device")
        return sync(handle)

    monkeypatch.setattr(output.os, "fsync", full)
    assert cli("--model", model_a, "--tasks", BBH, "--dtype", "float32") == 2
    assert "no disk space" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    # with space again the run is finished from what was kept: no model needed
    monkeypatch.setattr(output.os, "fsync", sync)
    monkeypatch.setattr(engines, "load_engine", None)
    assert cli("--model", model_a, "--tasks", BBH, "--dtype", "float32") == 0


def test_unwritable_result_is_refused_with_its_reason(refused, cli, model_a, tmp_path, capfd):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "result.json").write_text("{")
    assert cli("--model", model_a, "--tasks", BBH, out=tmp_path / "other") == 2
    assert "unreadable result" in capfd.readouterr().err


def test_adapter_that_does_not_fit_its_base(refused, model_a, tmp_path):
    other = tiny.make_model(tmp_path / "wide", hidden=64)
    adapter = tiny.make_adapter(tmp_path / "lora", str(model_a))
    line = refused("--model", adapter, "--base", other, "--tasks", BBH)
    assert "cannot be put on its base" in line
    assert "size mismatch for base_model.model.model.layers.0.self_attn.q_proj.lora_A" in line
