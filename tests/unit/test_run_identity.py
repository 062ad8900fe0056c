"""What makes a resumed run the same: every option that moves a number, and the content of what is read."""

from __future__ import annotations

import json
import shutil

import pytest

from sparsepo_plugin.adapters.openrlhf import checkpoints, flags, run_identity
from sparsepo_plugin.demo.language import generate_pairs, write_jsonl
from sparsepo_plugin.errors import UserError

BASE = ["--loss", "sparsepo"]


def identity(inputs, *argv):
    return run_identity.identity(flags.parse([*inputs.flags(), *BASE, *argv]).arguments)


@pytest.fixture
def resume(inputs, tmp_path):
    """Resume, with changed flags, a run that was started with the given ones."""

    def run(changed, first=()):
        checkpoints.begin(tmp_path, "global_step2")
        record = {"processes": 1, "identity": identity(inputs, *first)}
        checkpoints.finish(tmp_path, "global_step2", json.loads(json.dumps(record)), 3)
        saved = checkpoints.to_resume(tmp_path)
        run_identity.check_same(saved, identity(inputs, *first, *changed), tmp_path)

    return run


@pytest.mark.parametrize(
    "changed",
    [
        ["--adam.lr", "0.1"], ["--adam.betas", "0.8", "0.9"], ["--adam.weight_decay", "0.1"],
        ["--optim", "muon"], ["--lr_scheduler", "constant"], ["--lr_warmup_ratio", "0.5"],
        ["--min_lr_ratio", "0.5"], ["--max_norm", "9"], ["--train.max_epochs", "2"],
        ["--train.batch_size", "4"], ["--train.seed", "9"],
        ["--model.beta", "0.7"], ["--model.nll_loss_coef", "0.1"], ["--model.dropout"],
        ["--ds.param_dtype", "bf16", "--adam.eps", "1"], ["--ds.zero_stage", "0"], ["--ds.lora.rank", "4"],
        ["--data.input_template", "Human: {}"], ["--data.apply_chat_template"], ["--data.max_len", "64"],
        ["--data.tokenizer_chat_template", "{{ messages }}"], ["--sparsepo.mask_lr", "0.5"],
        ["--sparsepo.masks", "independent"], ["--loss", "dpo"],
    ],
)  # fmt: skip
def test_a_change_that_moves_a_number_is_refused_by_the_options_name(changed, resume):
    with pytest.raises(UserError, match=r"cannot resume from .*global_step2: ") as error:
        resume(changed)
    message = str(error.value)
    named = {word.removeprefix("--") for word in changed if word.startswith("--")}
    assert any(f" {name} is " in message for name in named), message
    assert "\n" not in message


@pytest.mark.parametrize(
    "changed",
    [
        ["--train.micro_batch_size", "2"], ["--ckpt.save_steps", "7"], ["--ckpt.output_dir", "elsewhere"],
        ["--eval.steps", "3"], ["--eval.at_start"], ["--logger.logging_steps", "5"], ["--ref.offload"],
        ["--ref.precompute"],
        ["--data.length_batching"], ["--perf.head", "off"], ["--sparsepo.record", "5"],
        ["--model.gradient_checkpointing_enable"], ["--ds.attn_implementation", "eager"],
    ],
)  # fmt: skip
def test_a_change_that_moves_none_is_allowed(changed, resume):
    resume(changed)


def test_another_reference_is_refused_by_name_and_by_content(inputs, resume, tmp_path):
    with pytest.raises(UserError, match=r"ref\.model_name_or_path is .* now and was"):
        resume(["--ref.model_name_or_path", str(inputs.model("gpt2"))])
    copy = tmp_path / "reference"
    shutil.copytree(inputs.model("gpt2"), copy)
    before = identity(inputs, "--ref.model_name_or_path", str(copy))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    after = identity(inputs, "--ref.model_name_or_path", str(copy))
    assert {key for key in before if before[key] != after[key]} == {"content of reference"}


def test_another_chat_template_in_the_models_folder_is_another_run(inputs, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(inputs.model(), copy)
    before = identity(inputs, "--model.model_name_or_path", str(copy))
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    after = identity(inputs, "--model.model_name_or_path", str(copy))
    assert {key for key in before if before[key] != after[key]} == {"content of tokenizer"}


def test_other_data_under_the_same_name_is_another_run(inputs, tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_jsonl(generate_pairs(9, 0), path)
    before = identity(inputs, "--data.dataset", str(path))
    write_jsonl(generate_pairs(9, 1), path)
    after = identity(inputs, "--data.dataset", str(path))
    assert {key for key in before if before[key] != after[key]} == {"content of data.dataset"}


def test_a_checkpoint_of_another_schema_is_refused(inputs, tmp_path):
    saved = checkpoints.Saved("global_step2", 2, {"schema_version": 3, "identity": {}})
    with pytest.raises(UserError, match="got schema_version 3, expected 2; use the sparsepo version that"):
        run_identity.check_same(saved, identity(inputs), tmp_path)


def test_an_identity_is_plain_json(inputs):
    one = identity(inputs)
    assert json.loads(json.dumps(one)) == one


def test_a_blueprint_keeps_the_template_that_training_used(inputs):
    given = ["--data.apply_chat_template", "--data.tokenizer_chat_template", "{{ messages }}"]
    arguments = flags.parse([*inputs.flags(), *given]).arguments
    assert run_identity.blueprint(arguments, None)["chat_template"] == "{{ messages }}"
    unused = flags.parse([*inputs.flags(), *given[1:]]).arguments
    assert run_identity.blueprint(unused, None)["chat_template"] is None


def test_the_fingerprint_follows_the_content_of_files_and_folders(tmp_path):
    file, folder = tmp_path / "a.jsonl", tmp_path / "many"
    folder.mkdir()
    file.write_text("one")
    (folder / "x.jsonl").write_text("x")
    values = (str(file), str(folder), f"{file},{folder}", "org/hub")
    before = [run_identity.fingerprint(value) for value in values]
    assert len(set(before)) == 4
    assert run_identity.fingerprint(f"{file}@train") == before[0]
    file.write_text("two")
    (folder / "y.jsonl").write_text("y")
    after = [run_identity.fingerprint(value) for value in values]
    assert [a == b for a, b in zip(before, after)] == [False, False, False, True]
