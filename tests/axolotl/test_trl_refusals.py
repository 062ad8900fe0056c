"""What TRL's adapter cannot honour is refused by name in one line, before any work."""

from __future__ import annotations

import pytest
from trl import DPOConfig, DPOTrainer
from trl_runs import SPARSE

from sparsepo_plugin import registry
from sparsepo_plugin.adapters.trl import SparsePOTrainer, refusals
from sparsepo_plugin.adapters.trl.arguments import build_options
from sparsepo_plugin.adapters.trl.sharding import spread_of
from sparsepo_plugin.adapters.trl.versions import untested
from sparsepo_plugin.demo.tiny import build_model, build_tokenizer, save_tiny
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.losses import sparsepo
from sparsepo_plugin.registry import get


@pytest.fixture
def refused(tiny, tmp_path, monkeypatch):
    """The one line of the refusal; upstream's trainer, where the work would begin, is never entered."""

    def entered(*_, **__):
        raise AssertionError("upstream's trainer was entered")

    monkeypatch.setattr(DPOTrainer, "__init__", entered)

    def refuse(loss="sparsepo", options=None, **args):
        with pytest.raises(UserError) as error:
            tiny.trainer(tmp_path / "out", loss, options, **args)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()
        return str(error.value)

    return refuse


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"use_liger_kernel": True}, "use_liger_kernel: got True"),
        ({"padding_free": True}, "padding_free: got True"),
        ({"loss_type": ["ipo"]}, "loss_type: got ['ipo'], expected ['sigmoid']"),
        ({"loss_weights": [0.5]}, "loss_weights: got [0.5]"),
        ({"ld_alpha": 0.5}, "ld_alpha: got 0.5"),
        ({"use_weighting": True}, "use_weighting: got True"),
        ({"label_smoothing": 0.1}, "label_smoothing: got 0.1, expected 0.0"),
        ({"f_divergence_type": "js_divergence"}, "f_divergence_type: got 'js_divergence'"),
        ({"beta": 0.0}, "beta: got 0.0, expected a number > 0"),
        ({"optim": "adalomo"}, "optim: got adalomo, expected one that steps after the backward pass"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config.split_batches: got True"),
        ({"accelerator_config": {"dispatch_batches": True}}, "accelerator_config.dispatch_batches: got True"),
        ({"accelerator_config": {"even_batches": False}}, "accelerator_config.even_batches: got False"),
    ],
)
def test_an_argument_that_contradicts_the_loss(refused, args, words):
    assert refused(**args).startswith(words)


@pytest.mark.parametrize(
    ("loss", "options", "words"),
    [
        ("sparspo", {}, "unknown loss 'sparspo': did you mean sparsepo"),
        ("sparsepo", {"maks": "common"}, "unknown option of sparsepo 'maks': did you mean masks"),
        ("sparsepo", {"masks": "both"}, "option masks: got 'both', expected one of common, independent"),
        ("sparsepo", {"reward_l1": "much"}, "option reward_l1: got 'much' (str), expected a number"),
        ("sparsepo", {"width": 1.5}, "option width: got 1.5 (float), expected an integer"),
        ("sparsepo", {"reward_l1": True}, "option reward_l1: got True (bool), expected a number"),
        ("sparsepo", {"reward_l1": -1}, "option reward_l1: got -1.0, expected a number >= 0"),
        (
            "sparsepo",
            {"reward_l1": 0.1, "normalise": "mean"},
            "option reward_l1: got 0.1 with normalise mean",
        ),
        ("dpo", {"masks": "common"}, "unknown option of dpo 'masks'"),
    ],
)
def test_an_unknown_loss_or_option_or_a_bad_value(refused, loss, options, words):
    assert refused(loss, options).startswith(words)


def test_rows_and_matrices_split_over_processes():
    class Args:
        preference_loss, parallelism_config, n_gpu = "dpo", object(), 1

    with pytest.raises(UserError, match=r"^parallelism_config with preference_loss dpo: got it switched on"):
        refusals.check(Args())


class Spread:
    """An accelerator that says how it spreads models."""

    def __init__(self, kind, precision="no", version=2, **config):
        self.distributed_type, self.mixed_precision, self.state = kind, precision, self
        self.fsdp_plugin = self.deepspeed_plugin = self
        self.fsdp_version, self.deepspeed_config, self.zero_stage = version, config, 2


@pytest.mark.parametrize(
    ("accelerator", "words"),
    [
        (Spread("MULTI_XPU"), "distributed type MULTI_XPU: expected one process, DDP, DeepSpeed or FSDP2"),
        (Spread("FSDP", version=1), "fsdp_version: got 1, expected 2"),
        (Spread("DEEPSPEED", "fp16"), "fp16 with DEEPSPEED: expected bf16 or float32"),
        (Spread("FSDP", "fp16"), "fp16 with FSDP: expected bf16 or float32"),
        (Spread("DEEPSPEED", tensor_parallel={"autotp_size": 2}), "tensor_parallel.autotp_size: got 2"),
    ],
)
def test_ways_of_spreading_models_that_are_not_tested(accelerator, words):
    with pytest.raises(UserError) as error:
        spread_of(accelerator)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_several_gpus_in_one_process():
    class Args:
        preference_loss, deepspeed, fsdp, n_gpu = "dpo", None, None, 4

    with pytest.raises(
        UserError, match=r"^4 GPUs in one process .* expected one process for each; start with"
    ):
        refusals.check(Args())


def test_arguments_that_know_no_loss(tiny, tmp_path):
    with pytest.raises(UserError, match="args: got DPOConfig, expected a SparsePOConfig"):
        SparsePOTrainer(model=str(tiny.model), args=DPOConfig(str(tmp_path), use_cpu=True, bf16=False))


def test_models_that_do_not_fit(refused, tmp_path):
    tokenizer = build_tokenizer(["a", "b"])
    save_tiny(tmp_path / "other", build_model(tokenizer, hidden_size=16, heads=2, layers=1), tokenizer)
    message = refused(given={"ref_model": str(tmp_path / "other")})
    assert message.startswith("policy and reference have different vocabularies: got 194 tokens")
    assert refused(given={"model": str(tmp_path / "gone")}).startswith(
        f"model {tmp_path / 'gone'}: config.json cannot be used"
    )


def test_losses_without_a_mask_module_take_any_optimizer(tiny, tmp_path):
    trainer = tiny.trainer(tmp_path, "tdpo1", optim="adamw_bnb_8bit")
    assert not trainer.mask_training.learned


def test_options_keep_presets_and_convert_integers():
    found = build_options(get("sparsepo"), {"preset": "paper", "mask_lr": 1})
    assert (found.init, found.mask_lr) == ("published", 1.0)
    assert isinstance(found.mask_lr, float)
    assert build_options(get("sparsepo"), {"mask_lr": None}).mask_lr is None


def test_an_optimizer_is_checked_for_any_mask_with_parameters(refused, monkeypatch):
    """A source may learn without reading hidden states; what counts is that it has something to train."""
    source = registry.mask_sources()["uniform"]._replace(learned=True)
    monkeypatch.setitem(sparsepo._SOURCES, "uniform", source)
    message = refused(options={"source": "uniform"}, optim="lomo")
    assert message.startswith("optim: got lomo, expected one that steps after")


def test_a_mask_module_belongs_to_one_fixed_reference(refused):
    message = refused(options=SPARSE, sync_ref_model=True)
    assert message.startswith("sync_ref_model: got True, expected False with preference_loss sparsepo")


def test_newer_versions_than_the_tested_ones_are_named_and_older_ones_refused():
    assert untested("trl") is None
    assert untested("axolotl", "0.21.0.dev0") is None
    assert (
        untested("trl", "2.0.1")
        == "warning: trl 2.0.1 is newer than 1.16, the newest that this is tested with"
    )
    with pytest.raises(UserError, match=r"^axolotl: got version 0.18.2, expected 0.19 or later"):
        untested("axolotl", "0.18.2")


@pytest.mark.parametrize("spelled", ["itself", "link"])
def test_the_model_that_the_run_reads_is_not_written_over(tiny, refused, tmp_path, spelled):
    output = tiny.model
    if spelled == "link":
        output = tmp_path / "a name for it"
        output.symlink_to(tiny.model)
    said = refused("dpo", output_dir=str(output))
    assert said == f"output_dir: got {output}, which is the model that the run reads, expected another folder"
