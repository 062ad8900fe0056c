"""Configuration files: strict keys, precedence, secrets, round trip."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml

from sparsepo_plugin import config
from sparsepo_plugin.adapters.openrlhf import flags
from sparsepo_plugin.errors import UserError

KNOWN = {"model.beta": False, "model.ipo_enable": True, "adam.betas": False, "loss": False}


def written(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_nested_and_dotted_keys_become_flags_in_file_order(tmp_path):
    path = written(tmp_path, "loss: dpo\nmodel: {beta: 0.2, ipo_enable: true}\nadam.betas: [0.8, 0.9]\n")
    assert config.read_flags(path, KNOWN) == [
        *("--loss", "dpo", "--model.beta", "0.2", "--model.ipo_enable", "--adam.betas", "0.8", "0.9")
    ]


def test_null_leaves_a_key_out_and_false_takes_a_switch_back(tmp_path):
    path = written(tmp_path, "loss: null\nmodel.ipo_enable: false\n")
    assert config.read_flags(path, KNOWN) == ["--no-model.ipo_enable"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {bets: 0.1}", "unknown key in .*'model.bets': did you mean model.beta"),
        ("model.ipo_enable: yes please", "model.ipo_enable .* got 'yes please', expected true or false"),
        ("model.ipo_enable: 1", "model.ipo_enable .* got 1, expected true or false"),
        ("[1, 2]", "got list, expected a mapping"),
        ("", "got NoneType, expected a mapping"),
        ("a: [", "is not YAML"),
        ("a: \x00", "is not YAML"),
    ],
)
def test_a_file_that_is_not_a_configuration_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        config.read_flags(written(tmp_path, text), KNOWN)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read configuration .*gone\.yaml: No such file"):
        config.read_flags(tmp_path / "gone.yaml", KNOWN)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = written(
        tmp_path,
        "loss: sparsepo\nmodel.beta: 0.5\nadam.lr: 0.25\n"
        "sparsepo: {masks: independent, reward_l1: 0.1, normalise: none}\n"
        "ref.offload: true\nckpt.save_hf: true\n",
    )
    argv = ["--config", str(path), "--adam.lr", "0.75", "--sparsepo.reward_l1", "0.3", "--no-ref.offload"]
    parsed = flags.parse(argv)
    arguments = parsed.arguments
    assert (arguments.model.beta, arguments.adam.lr, arguments.max_norm) == (0.5, 0.75, 1.0)
    assert (parsed.options.masks, parsed.options.reward_l1, parsed.options.kl_l1) == ("independent", 0.3, 0.0)
    assert (arguments.ref.offload, arguments.ckpt.save_hf, arguments.ckpt.disable_ds) == (False, True, False)
    assert flags.parse(["--adam.lr", "0.75", "--config", str(path)]).arguments.adam.lr == 0.75


def test_the_effective_configuration_is_complete_and_reads_back_to_itself(tmp_path):
    argv = [*("--loss", "sparsepo", "--sparsepo.masks", "independent", "--adam.betas", "0.8", "0.95")]
    argv += ["--ref.offload", "--data.dataset", "a b.jsonl", "--logger.wandb.run_name", "x: y"]
    first = flags.parse(argv).arguments
    path = written(tmp_path, config.dump(first))
    second = flags.parse(["--config", str(path)]).arguments
    assert yaml.safe_load(config.dump(second)) == yaml.safe_load(config.dump(first))
    content = yaml.safe_load(path.read_text())
    assert content["sparsepo"]["kl_l1"] == 0.0
    assert content["model"]["beta"] == 0.1
    assert content["sparsepo"]["mask_lr"] is None


def test_secrets_are_not_written():
    arguments = SimpleNamespace(logger=SimpleNamespace(wandb=SimpleNamespace(key="hunter2", project="p")))
    text = config.dump(arguments)
    assert "hunter2" not in text
    assert yaml.safe_load(text)["logger"]["wandb"] == {"key": None, "project": "p"}
    full = flags.parse(["--logger.wandb.key", "hunter2"]).arguments
    assert full.logger.wandb.key == "hunter2"
    assert "hunter2" not in config.dump(full)


def test_infinite_step_counts_are_written_as_upstream_spells_them():
    arguments = SimpleNamespace(
        ckpt=SimpleNamespace(save_steps=float("inf")), adam=SimpleNamespace(betas=(0.9, 0.95))
    )
    assert yaml.safe_load(config.dump(arguments)) == {
        "ckpt": {"save_steps": -1},
        "adam": {"betas": [0.9, 0.95]},
    }


def test_without_a_loss_the_arguments_are_upstreams_own():
    parsed = flags.parse([])
    assert parsed.loss is None
    assert parsed.options is None
    assert parsed.arguments.model.label_smoothing == 0.0
    assert parsed.arguments.train.batch_size == 128
    assert not hasattr(parsed.arguments, "sparsepo")
