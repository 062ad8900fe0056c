"""Mistakes in the input: one line that says what, got, expected, remedy; exit code 2; nothing written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from sparsepo_plugin import cli, registry, train_dpo
from sparsepo_plugin.demo.tiny import build_model, build_tokenizer, save_tiny

SPARSE = ["--loss", "sparsepo"]


@pytest.fixture
def refused(inputs, tmp_path, capsys):
    """Run with the given flags after the good ones; return the one line of the refusal."""

    def run(*argv: str, out: Path | None = None, good: bool = True, main=train_dpo.main) -> str:
        folder = tmp_path / "out" if out is None else out
        existed = sorted(map(str, tmp_path.rglob("*")))
        capsys.readouterr()
        code = main([*(inputs.flags() if good else []), "--ckpt.output_dir", str(folder), *argv])
        captured = capsys.readouterr()
        assert code == 2, captured.err
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("error: ")
        assert "Traceback" not in captured.out
        assert sorted(map(str, tmp_path.rglob("*"))) == existed
        return lines[0].removeprefix("error: ")

    return run


def data(tmp_path: Path, rows: list[object], name: str = "bad.jsonl") -> list[str]:
    path = tmp_path / name
    path.write_text("".join(row + "\n" if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return ["--data.dataset", str(path)]


def pairs(count: int, **columns: object) -> list[dict[str, object]]:
    return [
        {"prompt": "describe two", "chosen": f" it {n}", "rejected": " no", **columns} for n in range(count)
    ]


# ---------------------------------------------------------------- names


def test_an_unknown_loss_names_near_matches_and_all_losses(refused):
    message = refused("--loss", "sparspo")
    assert message.startswith("unknown loss 'sparspo': did you mean sparsepo")
    assert message.endswith(f"available: {', '.join(registry.names())}")


@pytest.mark.parametrize(
    ("flag", "near"),
    [
        ("--sparsepo.maks", "--sparsepo.masks"),
        ("--train.batchsize", "--train.batch_size"),
        ("--modle.beta", "--model.beta"),
    ],
)
def test_an_unknown_flag_names_near_matches(refused, flag, near):
    message = refused(*SPARSE, flag, "1")
    assert f"unknown flag {flag!r}" in message
    assert near in message


def test_an_unknown_flag_with_equals_sign_is_named_without_its_value(refused):
    assert "unknown flag '--nothing.like.it':" in refused("--nothing.like.it=3")


def test_an_unknown_config_key_names_file_key_and_near_matches(refused, tmp_path):
    (tmp_path / "run.yaml").write_text("loss: sparsepo\nsparsepo: {reward_l2: 0.1}\n")
    message = refused("--config", str(tmp_path / "run.yaml"))
    assert f"unknown key in {tmp_path / 'run.yaml'} 'sparsepo.reward_l2'" in message
    assert "sparsepo.reward_l1" in message


def test_a_config_file_that_is_missing_or_not_yaml(refused, tmp_path):
    message = refused("--config", str(tmp_path / "gone.yaml"))
    assert "cannot read configuration" in message
    assert "gone.yaml" in message
    (tmp_path / "bad.yaml").write_text("a: [1\nb: 2")
    assert "is not YAML" in refused("--config", str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--sparsepo.masks", "both"], ["--sparsepo.masks", "'both'", "common", "independent"]),
        (["--sparsepo.reward_l1", "-1"], ["reward_l1", "-1.0", "expected a number >= 0"]),
        (["--sparsepo.reward_l1", "much"], ["--sparsepo.reward_l1", "'much'", "float"]),
        (["--sparsepo.dropout", "1.5"], ["dropout", "1.5", "[0, 1)"]),
        (["--model.beta", "0"], ["--model.beta", "0.0", "> 0"]),
        (["--model.beta", "nan"], ["--model.beta", "nan", "> 0"]),
        (["--ds.param_dtype", "fp8"], ["--ds.param_dtype", "'fp8'", "bf16", "fp32"]),
    ],
)
def test_a_value_outside_its_range_is_named_with_what_is_accepted(refused, argv, words):
    message = refused(*SPARSE, *argv)
    assert all(word in message for word in words), message


# ---------------------------------------------------------------- data


def test_a_missing_dataset_file(refused, tmp_path):
    message = refused(*SPARSE, "--data.dataset", str(tmp_path / "gone.jsonl"))
    assert message == f"--data.dataset {tmp_path / 'gone.jsonl'}: no such file or folder"
    assert "--eval.dataset" in refused(*SPARSE, "--eval.dataset", str(tmp_path / "gone.jsonl"))


def test_no_dataset_at_all(refused, inputs):
    argv = ["--model.model_name_or_path", str(inputs.model()), *SPARSE]
    assert "--data.dataset is missing: expected" in refused(*argv, good=False)


@pytest.mark.parametrize("column", ["chosen", "rejected"])
def test_a_missing_column(refused, tmp_path, column):
    rows = [{key: value for key, value in row.items() if key != column} for row in pairs(9)]
    message = refused(*SPARSE, *data(tmp_path, rows))
    assert f"no column {column!r}, got " in message
    assert f"--data.{column}_key" in message


def test_a_missing_prompt_column(refused, tmp_path):
    message = refused(*SPARSE, *data(tmp_path, pairs(9)), "--data.prompt_key", "question")
    assert "no column 'question'" in message


def test_an_empty_dataset(refused, tmp_path):
    message = refused(*SPARSE, *data(tmp_path, []))
    assert "the file is empty, expected" in message


def test_a_dataset_smaller_than_one_batch(refused, tmp_path):
    message = refused(*SPARSE, *data(tmp_path, pairs(7)))
    assert "got 7 usable pairs, expected at least one batch of 8" in message
    assert "--train.batch_size" in message


def test_a_limit_of_samples_smaller_than_one_batch(refused):
    assert "got 3 usable pairs" in refused(*SPARSE, "--data.max_samples", "3")


def test_responses_truncated_away_by_max_len(refused):
    message = refused(*SPARSE, "--data.max_len", "6")
    assert "every response is truncated away: the shortest prompt has 5 tokens" in message
    assert "--data.max_len 6" in message
    assert "raise it" in message


def test_malformed_json(refused, tmp_path):
    message = refused(*SPARSE, *data(tmp_path, [*pairs(9), '{"chosen": ']))
    assert "cannot be read as preference pairs" in message
    assert "bad.jsonl" in message


def test_rows_that_are_not_text(refused, tmp_path):
    rows = pairs(9, chosen=[{"role": "user", "content": "x"}])
    message = refused(*SPARSE, *data(tmp_path, rows))
    assert "row 0, column 'chosen': got list, expected text" in message
    assert "--data.apply_chat_template" in message
    rows = pairs(9)
    rows[4]["rejected"] = None
    assert "row 4, column 'rejected': got NoneType" in refused(*SPARSE, *data(tmp_path, rows, "null.jsonl"))


def test_a_compressed_file(refused, tmp_path):
    message = refused(*SPARSE, "--data.dataset", str(tmp_path / "pairs.jsonl.gz"))
    assert "got a compressed file, expected .json" in message


def test_a_chat_template_that_the_tokenizer_lacks(refused):
    assert "the tokenizer has none" in refused(*SPARSE, "--data.apply_chat_template")


# ---------------------------------------------------------------- models


def test_a_model_path_that_does_not_exist(refused, tmp_path):
    message = refused(*SPARSE, "--model.model_name_or_path", str(tmp_path / "gone"))
    assert message.startswith(f"--model.model_name_or_path {tmp_path / 'gone'}: no such folder; expected")
    message = refused(*SPARSE, "--ref.model_name_or_path", str(tmp_path / "gone"))
    assert message.startswith("--ref.model_name_or_path")


def test_a_hub_name_that_cannot_be_reached(refused):
    assert "no config.json there (or the hub cannot be reached)" in refused(
        *SPARSE, "--model.model_name_or_path", "nobody/nothing"
    )


def test_no_model_at_all(refused, inputs):
    argv = ["--data.dataset", str(inputs.train), *SPARSE]
    assert "--model.model_name_or_path is missing: expected" in refused(*argv, good=False)


def test_a_folder_without_a_model(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no config.json there" in refused(*SPARSE, "--model.model_name_or_path", str(tmp_path / "empty"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text('{"model_type": "perceptron-9000"}')
    assert "config.json cannot be used" in refused(
        *SPARSE, "--model.model_name_or_path", str(tmp_path / "broken")
    )


def test_policy_and_reference_with_different_vocabularies(refused, tmp_path):
    other = tmp_path / "other"
    tokenizer = build_tokenizer(["a", "b", "c"])
    save_tiny(other, build_model(tokenizer, hidden_size=16, heads=2, layers=1), tokenizer)
    message = refused(*SPARSE, "--ref.model_name_or_path", str(other))
    assert "policy and reference have different vocabularies: got 194 tokens" in message
    assert "and 6 tokens in" in message
    assert "use a reference of the policy's family" in message


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_model_that_brings_its_own_code_is_refused_unless_allowed(refused, inputs, tmp_path, file):
    model = tmp_path / "with-code"
    shutil.copytree(inputs.model(), model)
    content = json.loads((model / file).read_text())
    key = (
        {"AutoConfig": "evil.Config"}
        if file == "config.json"
        else {"AutoTokenizer": ["evil.Tokenizer", None]}
    )
    (model / file).write_text(json.dumps({**content, "auto_map": key}))
    (model / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    message = refused(*SPARSE, "--model.model_name_or_path", str(model))
    assert f"its {file} asks to run code that comes with the model (auto_map)" in message
    assert "--model.trust_remote_code" in message
    assert not (tmp_path / "pwned").exists()


def test_a_tokenizer_without_end_token(refused, inputs, tmp_path):
    model = tmp_path / "endless"
    shutil.copytree(inputs.model(), model)
    content = json.loads((model / "tokenizer_config.json").read_text())
    content.pop("eos_token")
    (model / "tokenizer_config.json").write_text(json.dumps(content))
    assert "its tokenizer has no eos_token" in refused(*SPARSE, "--model.model_name_or_path", str(model))


# ---------------------------------------------------------------- contradictions and places


@pytest.mark.parametrize("loss", ["dpo", "sparsepo"])
@pytest.mark.parametrize("argv", [["--model.ipo_enable"], ["--model.label_smoothing", "0.1"]])
def test_options_of_upstreams_own_loss_contradict_a_chosen_one(refused, loss, argv):
    message = refused("--loss", loss, *argv)
    assert message.startswith(f"{argv[0]} contradicts --loss {loss}")
    assert "drop one of them" in message


@pytest.mark.parametrize(("loss", "shown"), [(["--loss", "dpo"], "--loss dpo"), ([], "--loss None")])
def test_an_option_of_another_loss(refused, loss, shown):
    message = refused(*loss, "--sparsepo.reward_l1", "0.1")
    assert message.startswith(f"--sparsepo.reward_l1 given with {shown}: expected --loss sparsepo")


def test_a_batch_size_that_is_no_multiple(refused):
    message = refused(*SPARSE, "--train.batch_size", "6")
    assert message.startswith("--train.batch_size: got 6, expected a multiple of 4")


@pytest.mark.skipif(torch.cuda.is_available(), reason="these work on CUDA")
def test_what_needs_cuda_is_refused_without_it(refused):
    assert "--ds.param_dtype fp16 needs CUDA: expected bf16 or fp32" in refused(
        *SPARSE, "--ds.param_dtype", "fp16"
    )
    message = refused(*SPARSE, "--ds.attn_implementation", "flash_attention_2")
    assert "needs CUDA: expected sdpa or eager" in message


def test_an_output_folder_inside_a_file(refused, tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(*SPARSE, out=tmp_path / "file" / "out")
    assert f"{tmp_path / 'file'} is a file, expected a folder" in message
    assert "is a file" in refused(*SPARSE, out=tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_is_not_writable(refused, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "is not writable; choose another folder" in refused(*SPARSE, out=tmp_path / "locked" / "out")


# ---------------------------------------------------------------- the other ways in


def test_validate_and_train_refuse_alike(refused):
    for command in ("validate", "train"):
        message = refused("--loss", "sparspo", main=lambda argv, command=command: cli.main([command, *argv]))
        assert message.startswith("unknown loss 'sparspo'")


def test_good_input_is_valid_and_nothing_is_written(inputs, tmp_path, capsys):
    argv = ["validate", *inputs.flags(), *SPARSE, "--ckpt.output_dir", str(tmp_path / "out")]
    assert cli.main(argv) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("valid: loss sparsepo")
    assert not (tmp_path / "out").exists()


def test_a_number_of_processes_below_one(capsys):
    assert cli.main(["train", "--processes", "0"]) == 2
    assert capsys.readouterr().err == "error: --processes: got 0, expected a number >= 1\n"


def test_only_the_first_process_speaks(inputs, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert train_dpo.main([*inputs.flags(), "--loss", "sparspo"]) == 2
    assert capsys.readouterr().err == ""
