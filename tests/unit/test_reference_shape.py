"""Sizes are read off the configuration of any causal language model."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from sparsepo_plugin.configured_loss import ConfiguredLoss, reference_shape
from sparsepo_plugin.demo.tiny import FAMILIES, build_model, build_tokenizer
from sparsepo_plugin.forward.statistics.reference import token_stats
from sparsepo_plugin.losses.sparsepo import SparsePOOptions
from sparsepo_plugin.registry import get
from sparsepo_plugin.types import ReferenceState


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("llama", "rms_norm_eps", 3e-6),
        ("qwen2", "rms_norm_eps", 3e-6),
        ("qwen3", "rms_norm_eps", 3e-6),
        ("gemma2", "rms_norm_eps", 3e-6),
        ("gpt2", "layer_norm_epsilon", 3e-5),
        ("gpt_neox", "layer_norm_eps", 3e-5),
    ],
)
def test_sizes_and_epsilon_are_found_under_every_familys_names(family, name, value):
    sizes = {"hidden_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4}
    config = AutoConfig.for_model(family, **sizes, **{name: value}, initializer_range=0.03)
    shape = reference_shape(config)
    assert (shape.hidden_size, shape.layers) == (48, 5)
    assert shape.layer_norm_eps == value
    assert shape.initializer_range == 0.03


def test_a_configuration_without_epsilon_or_scale_gets_the_usual_ones():
    class Bare:
        hidden_size, num_hidden_layers = 8, 2

        def get_text_config(self):
            return self

    assert reference_shape(Bare()) == type(reference_shape(Bare()))(8, 2, 1e-5, 0.02)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_real_models_states_fit_the_module_built_from_its_configuration(family):
    tokenizer = build_tokenizer(["a", "b", "c"])
    model = build_model(tokenizer, hidden_size=16, heads=2, layers=3, model_type=family)
    ids = tokenizer(["a b c a", "c b a b"], return_tensors="pt")["input_ids"]
    output = model(ids, output_hidden_states=True)
    stats = token_stats(output.logits, output.logits, ids)
    objective = ConfiguredLoss(get("sparsepo"), SparsePOOptions(), reference_shape(model.config))
    masks = objective.build_masks(0)(ReferenceState(tuple(output.hidden_states[1:]), stats.response_mask))
    assert masks.reward_mask.shape == (2, 3)
    assert objective.record()["reference_shape"]["layers"] == 3
    assert objective.needs.hidden_states
