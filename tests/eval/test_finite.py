"""Finite weights whose activations overflow: exit code 2, wherever the numbers would go, and nothing kept."""

import dataclasses
import json
import shutil
import sqlite3

import pytest

from eval_harness.errors import UserError
from eval_harness.files.texts import json_text
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.finite import check_finite, finite
from eval_harness.run.folder import read_items, read_result, write_run

from . import tiny
from .conftest import BBH


def overflowing(model, folder, head="lm_head.weight"):
    """A copy of a model with finite weights that make infinite logits, so NaN log-probabilities."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[head] = tensors[head] / tensors[head].abs().max() * 3e38
    assert bool(tensors[head].isfinite().all())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def hot(model_a, tmp_path):
    return overflowing(model_a, tmp_path / "hot")


@pytest.mark.parametrize("tasks", [BBH, "ifeval"])
def test_no_task_is_measured_with_it(cli, hot, tmp_path, capfd, tasks):
    """Log-likelihood and generation: the argmax of NaN is token 0, a text like any other."""
    args = ["--model", hot, "--tasks", tasks, "--dtype", "float32", "--generation", "max_gen_toks=4"]
    assert cli(*args) == 2
    error = capfd.readouterr().err
    assert "not finite" in error
    assert "--dtype" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
    with sqlite3.connect(tmp_path / "cache" / "answers.sqlite") as db:
        assert db.execute("SELECT COUNT(*) FROM answers").fetchone()[0] == 0


@pytest.mark.parametrize("temperature", [0, 1])
def test_no_text_is_written_with_it(cli, hot, model_a, tmp_path, capfd, temperature):
    tiny.write_rows(tmp_path / "p.jsonl", [{"prompt": "red cat"}])
    args = ["--model", hot, "--baseline", model_a, "--suites", "win_rate:own", "--judge", "length"]
    args += ["--prompts", tmp_path / "p.jsonl", "--dtype", "float32"]
    args += ["--generation", f"temperatures=[{temperature}]", "--generation", "max_new_tokens=4"]
    assert cli(*args) == 2
    assert "not finite" in capfd.readouterr().err
    assert not (tmp_path / "out" / "result.json").exists()  # the baseline's is there


def test_a_judge_with_it_judges_nothing(hot):
    from eval_harness.judges import Question, build_judge
    from eval_harness.judges.templates import load_template

    question = Question({"prompt": "a", "first": "b", "second": "c"})
    judge = build_judge("hf", {"model": str(hot), "device": "cpu"}, load_template("helpful"))
    with pytest.raises(UserError, match="not finite"):
        list(judge.answers([question]))


def test_a_reward_model_with_it_rewards_nothing(model_a, tmp_path):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    from eval_harness.judges import Question, build_judge

    config = LlamaConfig.from_pretrained(model_a, num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "reward")
    AutoTokenizer.from_pretrained(model_a).save_pretrained(tmp_path / "reward")
    hot = overflowing(tmp_path / "reward", tmp_path / "hot", "score.weight")
    judge = build_judge("reward", {"model": str(hot), "device": "cpu", "dtype": "float32"})
    with pytest.raises(UserError, match="not finite"):
        list(judge.answers([Question({"prompt": "a", "first": "b c", "second": "c"})]))


def test_scorers_with_it_score_nothing(tmp_path):
    """The classifier of sentence pairs, the fact checker in both kinds, the encoder of BERTScore."""
    from eval_harness.faithfulness.examples import Device
    from eval_harness.faithfulness.networks.checker import Checker
    from eval_harness.faithfulness.networks.encoder import Encoder
    from eval_harness.faithfulness.networks.pairs import PairClassifier

    from . import scorer_models

    device = Device("cpu")
    nli = scorer_models.make_nli(tmp_path / "nli")
    hot_nli = overflowing(nli, tmp_path / "hot_nli", "classifier.weight")
    encoder = scorer_models.make_encoder(tmp_path / "encoder")
    hot_encoder = overflowing(encoder, tmp_path / "hot_encoder", "encoder.layer.1.output.LayerNorm.weight")
    t5 = scorer_models.make_t5(tmp_path / "t5")
    hot_t5 = overflowing(t5, tmp_path / "hot_t5", "decoder.final_layer_norm.weight")
    with pytest.raises(UserError, match="not finite"):
        PairClassifier(hot_nli, "nli", device).probabilities([("the cat", "a dog")], 60)
    with pytest.raises(UserError, match="not finite"):
        Encoder(hot_encoder, 2, "bertscore", device).embed(["the cat is red"])
    for folder in (hot_nli, hot_t5):
        with pytest.raises(UserError, match="not finite"):
            Checker(folder, "", "minicheck", device).support([("the cat", "a dog")])


def test_log_probabilities_that_were_cached_as_nan_are_asked_for_again(cli, model_a, tmp_path):
    args = ["--model", model_a, "--tasks", BBH, "--dtype", "float32"]
    assert cli(*args) == 0
    (tmp_path / "cache" / "runs").rename(tmp_path / "elsewhere")
    with sqlite3.connect(tmp_path / "cache" / "answers.sqlite") as db:
        db.execute("UPDATE answers SET value = '[NaN, false]' WHERE rowid % 2")
    assert cli(*args, out=tmp_path / "again") == 0
    assert read_result(tmp_path / "again").counts["computed"] == 8
    assert read_items(tmp_path / "again") == read_items(tmp_path / "out")


def test_the_store_and_result_files_take_no_nan(cli, model_a, tmp_path):
    store = AnswerStore(tmp_path / "s.sqlite")
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write({"k": [float("nan"), True]})
    store.close()
    assert cli("--model", model_a, "--tasks", BBH, "--limit", "1", "--dtype", "float32") == 0
    text = (tmp_path / "out" / "result.json").read_text() + (tmp_path / "out" / "items.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    items, result = read_items(tmp_path / "out"), read_result(tmp_path / "out")
    bad = dataclasses.replace(items[0], metrics={"acc,none": float("nan")})
    with pytest.raises(UserError, match="not finite"):
        write_run(tmp_path / "bad", result, [bad])
    assert not (tmp_path / "bad").exists()


def test_json_that_every_reader_takes():
    assert json.loads(json_text({"a": ["x\ud800", 1.5]})) == {"a": ["x?", 1.5]}
    with pytest.raises(UserError, match="not finite"):
        json_text({"a": [float("inf")]})


def test_what_is_finite():
    import numpy as np
    import torch

    assert finite([1.0, {"a": (2, "NaN", None, True)}])
    assert not finite([1.0, {"a": (float("-inf"),)}])
    for bad in (torch.tensor([1.0, float("nan")]), np.array([[np.inf]]), [float("nan")]):
        with pytest.raises(UserError, match="NaN or infinity in x"):
            check_finite(bad, "x")
    for fine in (torch.tensor([1.0]), np.array([[1.0]]), [], torch.tensor([])):
        check_finite(fine, "x")
