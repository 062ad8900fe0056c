"""What can be known to fail, or to do nothing, before a model is loaded: one line, exit code 2."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sparsepo_plugin import cli
from sparsepo_plugin.adapters.openrlhf import flags as command_line
from sparsepo_plugin.adapters.openrlhf import option_ranges, preflight
from sparsepo_plugin.adapters.openrlhf.memory_estimate import estimate

SPARSE = ["--loss", "sparsepo"]


@pytest.fixture
def validate(inputs, tmp_path, capsys):
    """Run validate; its exit code and what it said."""

    def run(*argv, family="llama"):
        capsys.readouterr()
        out = ["--ckpt.output_dir", str(tmp_path / "out")]
        code = cli.main(["validate", *inputs.flags(family), *out, *argv])
        captured = capsys.readouterr()
        assert not (tmp_path / "out").exists()
        if code:
            assert (code, len(captured.err.splitlines())) == (2, 1), captured.err
        return code, captured.err.removeprefix("error: ") if code else captured.out

    return run


@pytest.fixture
def refused(validate):
    def run(*argv, **options):
        code, message = validate(*argv, **options)
        assert code == 2, message
        return message

    return run


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("train.seed", "-1", "a number in [0, 4294967295]"),
        ("train.max_epochs", "0", "a number >= 1"),
        ("train.batch_size", "0", "a number >= 1"),
        ("train.micro_batch_size", "0", "a number >= 1"),
        ("ckpt.save_steps", "0", "a number >= 1, or -1"),
        ("ckpt.save_steps", "-2", "a number >= 1, or -1"),
        ("eval.steps", "0", "a number >= 1, or -1"),
        ("logger.logging_steps", "0", "a number >= 1"),
        ("adam.lr", "-1", "a number > 0"),
        ("adam.lr", "nan", "a number > 0"),
        ("model.beta", "inf", "a number > 0"),
        ("model.beta", "nan", "a number > 0"),
        ("model.nll_loss_coef", "-1", "a number >= 0"),
        ("data.max_len", "0", "a number >= 4"),
        ("data.max_samples", "0", "a number >= 1"),
        ("lr_warmup_ratio", "1.5", "a number in [0, 1]"),
        ("ds.lora.rank", "-4", "a number >= 0"),
        ("ds.lora.dropout", "1", "a number in [0, 1)"),
        ("max_norm", "inf", "a number >= 0"),
    ],
)
def test_a_number_outside_its_range(refused, flag, value, expected):
    message = refused(*SPARSE, f"--{flag}={value}")
    shown = float(value) if "." in message.split(",")[0].rsplit(" ", 1)[1] else value
    assert message == f"--{flag}: got {shown}, expected {expected}\n"


def test_every_default_lies_in_its_range():
    option_ranges.check_ranges(command_line.parse([]).arguments)


def test_every_number_of_upstreams_command_line_is_checked_or_known_not_to_need_it():
    def numbers(namespace, prefix=""):
        for name, value in vars(namespace).items():
            if hasattr(value, "__dict__"):
                yield from numbers(value, f"{prefix}{name}.")
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                yield prefix + name

    others = {
        "ckpt.max_mem", "ds.zero_stage", "ds.ring_attn_head_stride", "local_rank", "muon.ns_steps",
        "ray.num_nodes", "ray.gpus_per_node",
    }  # fmt: skip
    assert set(numbers(command_line.parse([]).arguments)) - others == set(option_ranges.RANGES)


def test_two_betas_of_adam(refused):
    assert "--adam.betas: got 1.0, expected two numbers in [0, 1)" in refused(
        *SPARSE, "--adam.betas", "0.9", "1"
    )


@pytest.mark.parametrize("name", ["cosin", "warmup_stable_decay", "reduce_lr_on_plateau"])
def test_a_schedule_that_cannot_be_built(refused, name):
    message = refused(*SPARSE, "--lr_scheduler", name)
    assert message.startswith(f"--lr_scheduler: got {name!r}, expected one of constant, ")
    assert "cosine_with_min_lr" in message


@pytest.mark.parametrize("name", ["constant", "linear", "cosine_with_min_lr", "polynomial", "inverse_sqrt"])
def test_schedules_that_can(name):
    option_ranges.check_scheduler(command_line.parse(["--lr_scheduler", name]).arguments)


# ---------------------------------------------------------------- options without effect


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sparsepo.source", "uniform", "--sparsepo.reward_l1", "0.1"],
         "option reward_l1: got 0.1, which does nothing with source uniform"),
        (["--sparsepo.density", "0.3"], "option density: got 0.3, which does nothing with source learned"),
        (["--sparsepo.source", "random", "--sparsepo.layers", "last"],
         "option layers: got 'last', which does nothing with source random"),
        (["--sparsepo.source", "random", "--sparsepo.mask_lr", "0.1"],
         "option mask_lr: got 0.1, which does nothing with source random"),
        (["--sparsepo.normalise", "none", "--sparsepo.mask_on", "reward", "--sparsepo.kl_l1", "0.1"],
         "option kl_l1: got 0.1, which does nothing with mask_on reward"),
        (["--sparsepo.anchor", "0", "--sparsepo.anchor_weight", "complement"],
         "option anchor_weight: got 'complement', which does nothing with anchor 0"),
        (["--sparsepo.record", "3"], "--sparsepo.record 3: got no effect without --eval.dataset"),
        (["--eval.steps", "3"], "--eval.steps: got no effect without --eval.dataset"),
        (["--ckpt.save_hf"], "--ckpt.save_hf: got no effect without --ckpt.save_steps"),
        (["--data.dataset_probs", "1"], "--data.dataset_probs 1: got no effect without several data sets"),
        (["--data.tokenizer_chat_template", "{{ x }}"],
         "--data.tokenizer_chat_template {{ x }}: got no effect without --data.apply_chat_template"),
        (["--ds.lora.dropout", "0.1"], "--ds.lora.dropout 0.1: got no effect without --ds.lora.rank above 0"),
    ],
)  # fmt: skip
def test_an_option_that_would_do_nothing(refused, argv, message):
    assert refused(*SPARSE, *argv).startswith(message)


def test_options_that_a_preset_sets_are_no_options_of_the_user():
    parsed = command_line.parse([*SPARSE, "--sparsepo.preset", "paper", "--sparsepo.source", "random"])
    assert parsed.options.normalise == "none"


# ---------------------------------------------------------------- models


def copied(inputs, tmp_path, family="llama"):
    folder = tmp_path / "copy"
    shutil.copytree(inputs.model(family), folder)
    return folder


def test_layers_that_the_reference_lacks(refused):
    message = refused(*SPARSE, "--sparsepo.layers", "0,7")
    assert message.startswith("option layers: got '0,7', expected indices from -2 to 1")


@pytest.mark.parametrize("flag", ["--model.model_name_or_path", "--ref.model_name_or_path"])
@pytest.mark.parametrize("damage", ["cut", "missing", "tensor", "size", "part"])
def test_damaged_weights(refused, inputs, tmp_path, flag, damage):
    from safetensors.torch import load_file, save_file

    folder = copied(inputs, tmp_path)
    path = folder / "model.safetensors"
    state = load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "missing":
        path.unlink()
    elif damage == "part":
        path.rename(folder / "model-00001-of-00002.safetensors")
        index = {
            "metadata": {},
            "weight_map": {key: f"model-0000{1 + (key == name)}-of-00002.safetensors" for key in state},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        state = {key: value for key, value in state.items() if key != name}
        if damage == "size":
            state[name] = torch.zeros(3, 3)
        save_file(state, path, metadata={"format": "pt"})
    message = refused(*SPARSE, flag, str(folder))
    assert message.startswith(f"{flag} {folder}: ")
    expected = {
        "cut": "model.safetensors is cut or damaged",
        "missing": "got a folder without weights",
        "tensor": f"its weights lack 1 of the model's tensors, such as {name}",
        "size": "its weights do not fit its config.json",
        "part": "its weights do not fit its config.json",
    }  # fmt: skip
    assert expected[damage] in message


def test_weights_in_the_older_format(refused, validate, inputs, tmp_path):
    folder = copied(inputs, tmp_path)
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert validate(*SPARSE, "--model.model_name_or_path", str(folder))[0] == 0
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "pytorch_model.bin is cut or damaged" in refused(
        *SPARSE, "--model.model_name_or_path", str(folder)
    )


def shortened(inputs, tmp_path, family, key):
    """The family with 16 positions; its rows are longer."""
    folder = copied(inputs, tmp_path, family)
    config = AutoConfig.from_pretrained(folder)
    setattr(config, key, 16)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return ["--model.model_name_or_path", str(folder), "--ref.model_name_or_path", str(folder)]


def test_rows_longer_than_learned_positions(refused, validate, inputs, tmp_path):
    argv = shortened(inputs, tmp_path, "gpt2", "n_positions")
    message = refused(*SPARSE, *argv, family="gpt2")
    assert (
        "the longest row has 42 tokens, the model 16 positions; expected no more, lower --data.max_len to 16"
        in message
    )
    assert validate(*SPARSE, *argv, "--data.max_len", "16", family="gpt2")[0] == 0


def test_rows_longer_than_a_model_was_trained_for(validate, inputs, tmp_path):
    code, out = validate(*SPARSE, *shortened(inputs, tmp_path, "llama", "max_position_embeddings"))
    assert code == 0
    assert "tokens, the model 16 positions: beyond them it was not trained" in out
    code, out = validate(*SPARSE, "--data.max_len", "512")
    assert "the model 256 positions: it fits, --data.max_len 512 would not" in out


def test_a_tokenizer_larger_than_the_embedding(refused, validate, inputs, tmp_path):
    folder = copied(inputs, tmp_path)
    words = AutoTokenizer.from_pretrained(folder)
    words.add_tokens(["vogonity"])
    words.save_pretrained(folder)
    argv = [*SPARSE, "--model.model_name_or_path", str(folder)]
    assert validate(*argv)[0] == 0  # as long as no row has it
    rows = [json.loads(line) for line in inputs.train.read_text().splitlines()]
    rows[5]["chosen"] += " vogonity"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    message = refused(*argv, "--data.dataset", str(tmp_path / "rows.jsonl"))
    assert f"got token id {len(words) - 1} (row 5 of --data.dataset" in message
    assert f"expected ids below {len(words) - 1}" in message
    words.add_special_tokens({"pad_token": "<filling>"})
    words.save_pretrained(folder)
    assert "(its padding or end token)" in refused(*argv)


@pytest.mark.parametrize(("asked", "sdpa", "flash", "found"), [
    ("sdpa", True, True, "sdpa"), ("sdpa", False, True, "eager"), ("eager", False, False, "eager"),
    ("flash_attention_2", True, False, "sdpa"), ("flash_attention_2", False, False, "eager"),
    ("flash_attention_2", True, True, "flash_attention_2"),
])  # fmt: skip
def test_an_attention_kernel_that_the_model_lacks(asked, sdpa, flash, found):
    from types import SimpleNamespace

    from sparsepo_plugin.adapters.openrlhf.weights_check import choose_attention

    assert choose_attention(asked, SimpleNamespace(_supports_sdpa=sdpa, _supports_flash_attn=flash)) == found


@pytest.mark.parametrize("family", ["bloom", "gptj"])
def test_a_family_without_the_kernel_is_trained_with_eager_attention_and_it_is_said(
    validate, inputs, tmp_path, family
):
    folder = copied(inputs, tmp_path)
    (folder / "model.safetensors").unlink()
    words = AutoTokenizer.from_pretrained(folder)
    own = {"bloom": {"hidden_size": 16}, "gptj": {"n_embd": 16, "rotary_dim": 4, "n_positions": 64}}[family]
    config = AutoConfig.for_model(family, vocab_size=len(words), n_layer=1, n_head=2, **own)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    argv = ["--model.model_name_or_path", str(folder), "--ref.model_name_or_path", str(folder)]
    code, out = validate("--loss", "dpo", *argv, "--ds.attn_implementation", "sdpa")
    assert code == 0, out
    assert "--ds.attn_implementation sdpa: the model has no such kernel, eager is used" in out


# ---------------------------------------------------------------- the estimate of memory


def test_the_estimate_counts_what_its_formula_says(inputs, tmp_path):
    def found(*argv):
        parsed = command_line.parse(
            [*inputs.flags(), *SPARSE, "--ckpt.output_dir", str(tmp_path / "o"), *argv]
        )
        examined = preflight.examine(parsed, 1)
        return examined, lambda n: estimate(parsed.arguments, examined.policy, examined.reference, 100, n)

    examined, memory = found("--ds.zero_stage", "3")
    numbers = sum(p.numel() for p in examined.policy.parameters())
    one, four = memory(1), memory(4)
    assert one[:4] == (2 * numbers, 2 * numbers, 12 * numbers, 2 * numbers)
    assert one.activations == 34 * 2 * 4 * 100 * 32 * 2  # bytes, rows, tokens, width, blocks
    assert four[:4] == tuple(value / 4 for value in one[:4])
    _, memory = found("--ds.lora.rank", "4", "--ds.param_dtype", "fp32")
    lora = memory(1)
    adapted = 4 * sum(4 * (32 + 32) + 3 * (32 + 64) for _ in range(2))
    assert lora.optimizer == 8 * adapted
    assert lora.weights == 4 * (numbers + adapted)
