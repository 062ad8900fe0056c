"""The plugin inside Axolotl's own loading and validation of configurations."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import tomllib

import pytest
import torch
import yaml
from axolotl.cli import config as upstream
from axolotl.integrations.base import BasePlugin, PluginManager
from axolotl.utils.schemas.config import AxolotlInputConfig
from axolotl_runs import CONFIGS, on_tiny_model, write
from safetensors.torch import load_file, save_file
from trl_runs import ROOT

from sparsepo_plugin import registry
from sparsepo_plugin.adapters.axolotl import SparsePOPlugin, plugin, settings
from sparsepo_plugin.options import option_rows

NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.fixture
def load(tiny, tmp_path, monkeypatch):
    """Load a configuration as ``axolotl train`` does, with nothing left of the one before."""
    monkeypatch.setattr(PluginManager, "_instance", None)
    monkeypatch.chdir(tmp_path)

    def loaded(name="sparsepo-independent", **changes):
        content = on_tiny_model(name, tiny, tmp_path / "out", **changes)
        return upstream.load_cfg(str(write(tmp_path, content)))

    return loaded


@pytest.fixture
def refused(load, capsys, tmp_path):
    """The one line with which a configuration is refused."""

    def refuse(**changes):
        with pytest.raises(SystemExit) as exit:
            load(**changes)
        assert exit.value.code == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert not (tmp_path / "out").exists()
        return line.removeprefix("error: ")

    return refuse


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_configuration_is_accepted_with_its_options(load, name):
    written = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    cfg = load(name)
    assert cfg.trainer_cls == plugin.TRAINER
    loss = written["preference_loss"]
    assert name.split("-")[0] == loss
    arguments = SparsePOPlugin().get_training_args(cfg)
    assert arguments == {"preference_loss": loss, "loss_options": written[loss]}


def test_installed_but_not_asked_for_it_does_nothing(load, capsys):
    """Axolotl 0.21 loads every installed plugin for every configuration, of supervised fine-tuning too."""
    one = SparsePOPlugin()
    for cfg in ({"rl": "dpo", "learning_rate": 1e-5}, {"plugins": ["some.Other"], "sample_packing": True}):
        before = dict(cfg)
        one.register(cfg)
        assert cfg == before
        assert one.get_input_args() is None
        assert one.get_training_args_mixin() is None
        assert one.get_training_args(cfg) is None
        one.post_trainer_create(cfg, object())
        one.post_train(cfg, object())
        one.post_train_unload(cfg)
    assert capsys.readouterr() == ("", "")
    asked = {"preference_loss": "dpo", "rl": "dpo"}
    one.register(asked)
    assert asked["trainer_cls"] == plugin.TRAINER
    assert one.get_input_args()


def test_the_entry_point_names_the_plugin():
    with open(ROOT / "pyproject.toml", "rb") as file:
        points = tomllib.load(file)["project"]["entry-points"]["axolotl.plugins"]
    module, name = points["sparsepo"].split(":")
    assert getattr(importlib.import_module(module), name) is SparsePOPlugin


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_a_shipped_configuration_has_its_words_above_it(name):
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if ":" in line and not line.lstrip().startswith("#"):
            assert number, line
            assert lines[number - 1].lstrip().startswith("#") or re.search(r":|^ *- ", lines[number - 1]), (
                line
            )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sparsepo": {"maks": "common"}}, "unknown option of sparsepo 'maks': did you mean masks"),
        ({"sparsepo": {"masks": "both"}}, "sparsepo.masks: got 'both', expected one of common, independent"),
        ({"sparsepo": {"reward_l1": "much"}}, "sparsepo.reward_l1: got 'much', expected a number"),
        ({"sparsepo": {"reward_l1": True}}, "sparsepo.reward_l1: got True, expected a number"),
        ({"sparsepo": {"width": 1.5}}, "sparsepo.width: got 1.5, expected an integer"),
        ({"sparsepo": {"reward_l1": -1}}, "option reward_l1: got -1.0, expected a number >= 0"),
        ({"sparsepo": "independent"}, "section sparsepo: got 'independent', expected options"),
        (
            {"sparsepo": {"reward_l1": 0.1, "normalise": "mean"}},
            "option reward_l1: got 0.1 with normalise mean",
        ),
        ({"preference_loss": "sparspo"}, "unknown preference_loss 'sparspo': did you mean sparsepo"),
        ({"preference_loss": None}, "preference_loss: got none, expected one of cdpo, "),
        ({"preference_los": "dpo"}, "unknown key 'preference_los': did you mean preference_loss"),
        ({"sparse_po": {}}, "unknown key 'sparse_po': did you mean sparsepo"),
        (
            {"tdpo2": {"alpha": 0.1}},
            "section tdpo2 given with preference_loss sparsepo: expected preference_loss tdpo2",
        ),
        ({"rl": "kto"}, "rl: got 'kto', expected dpo with preference_loss sparsepo"),
        ({"rl": None}, "rl: got None, expected dpo"),
        ({"trainer_cls": "some.Trainer"}, "trainer_cls: got some.Trainer, expected none"),
        ({"precompute_ref_log_probs": True}, "precompute_ref_log_probs: got True, expected False with"),
        ({"dpo_use_liger_kernel": True}, "dpo_use_liger_kernel: got True"),
        ({"dpo_loss_type": ["ipo"]}, "dpo_loss_type: got ['ipo']"),
        ({"dpo_label_smoothing": 0.1}, "dpo_label_smoothing: got 0.1"),
        ({"dpo_use_weighting": True}, "dpo_use_weighting: got True"),
        ({"dpo_padding_free": True}, "dpo_padding_free: got True"),
        ({"pad_to_multiple_of": 64}, "pad_to_multiple_of: got 64"),
        ({"fsdp_config": {"reshard_after_forward": True}}, "fsdp_version: got 1, expected 2"),
        ({"context_parallel_size": 2}, "context_parallel_size: got 2, expected 1"),
        ({"optimizer": "lomo"}, "optimizer: got lomo, expected one that steps after the backward pass"),
        ({"lr_scheduler": "one_cycle"}, "lr_scheduler: got 'one_cycle'"),
        ({"use_ray": True}, "use_ray: got True"),
    ],
)
def test_a_configuration_that_cannot_be_trained_stops_the_run_in_one_line(refused, changes, words):
    assert refused(**changes).startswith(words)


@pytest.mark.parametrize("missing", ["trl", "safetensors"])
def test_a_missing_dependency_stops_the_run_in_one_line(refused, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    message = refused()
    assert f"got no usable {missing}" in message
    assert message.endswith('install them with: pip install "sparsepo[axolotl]"')


def test_a_trl_that_is_too_old_stops_the_run_in_one_line(refused, monkeypatch):
    installed = {"trl": "1.8.2", "axolotl": "0.19.0"}
    monkeypatch.setattr("sparsepo_plugin.adapters.trl.versions.version", installed.get)
    assert refused().startswith("trl: got version 1.8.2, expected 1.9 or later")


def test_another_plugins_trainer_stops_the_run(capsys):
    with pytest.raises(SystemExit):
        SparsePOPlugin().post_trainer_create({"preference_loss": "dpo"}, object())
    assert "trainer: got builtins.object, expected sparsepo_plugin" in capsys.readouterr().err


def test_numbers_that_yaml_reads_as_text_are_numbers(load):
    cfg = load(sparsepo={"mask_lr": "1e-4"})
    assert SparsePOPlugin().get_training_args(cfg)["loss_options"] == {"mask_lr": 1e-4}


@pytest.mark.parametrize("name", registry.names())
def test_every_option_of_every_loss_is_a_field_of_its_section(name):
    rows = {row.name for row in option_rows(registry.get(name).options)}
    assert set(settings.SECTIONS[name].model_fields) == rows
    assert name in settings.SparsePOArgs.model_fields


# ---------------------------------------------------------------- contract with upstream


def test_our_keys_are_not_upstreams():
    assert not set(settings.SparsePOArgs.model_fields) & set(AxolotlInputConfig.model_fields)


def test_every_key_we_refuse_is_one_upstream_knows():
    assert {*settings._REFUSED, *settings._PARALLEL} <= set(AxolotlInputConfig.model_fields)


def test_our_hooks_are_upstreams():
    ours = {name for name in vars(SparsePOPlugin) if not name.startswith("_")}
    assert ours <= {name for name in vars(BasePlugin) if not name.startswith("_")}
    for name in ours:
        theirs = inspect.signature(getattr(BasePlugin, name)).parameters
        assert list(inspect.signature(getattr(SparsePOPlugin, name)).parameters) == list(theirs)


def test_the_builder_takes_the_trainer_from_trainer_cls_with_policy_and_reference():
    from axolotl.core.builders.rl import HFRLTrainerBuilder

    text = re.sub(r"\s+", " ", inspect.getsource(HFRLTrainerBuilder._get_trainer_cls))
    assert "if self.cfg.trainer_cls:" in text
    assert "trainer_cls_args.append(self.model_ref)" in text
    assert "trainer_cls_args = [self.model]" in text


def test_upstreams_trainer_keeps_the_methods_that_ours_overrides():
    from axolotl.core.trainers.dpo.trainer import AxolotlDPOTrainer
    from trl import DPOTrainer

    assert issubclass(AxolotlDPOTrainer, DPOTrainer)
    assert not {"_compute_loss", "_clip_grad_norm", "log", "evaluation_loop"} & set(vars(AxolotlDPOTrainer))


def test_an_adapter_whose_names_lack_their_beginning_gets_it(tmp_path):
    path, value = tmp_path / "adapter_model.safetensors", torch.arange(4.0)
    plugin.name_as_peft(tmp_path)
    assert not path.exists()
    short, whole = (
        "model.layers.0.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.q_proj.lora_A.weight",
    )
    for name in (short, whole):
        save_file({name: value}, path)
        plugin.name_as_peft(tmp_path)
        assert list(load_file(path)) == [whole]
        assert torch.equal(load_file(path)[whole], value)
