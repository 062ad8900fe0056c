"""Names of transformers and DeepSpeed that heads and shared prefixes rely on; how upstream calls a model."""

from __future__ import annotations

import importlib
import inspect

import pytest
from torch import nn

from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf

import_openrlhf()

NAMES = [
    "transformers:AttentionInterface.register",
    "transformers:AttentionMaskInterface.register",
    "transformers:PreTrainedModel.set_attn_implementation",
    "transformers:PreTrainedModel.get_output_embeddings",
    "transformers:PreTrainedModel.get_decoder",
    "transformers:PreTrainedModel._supports_attention_backend",
    "transformers:PreTrainedModel._supports_sdpa",
    "transformers:PreTrainedModel._supports_flex_attn",
    "transformers.integrations.flex_attention:flex_attention_forward",
    "transformers.integrations.sdpa_attention:sdpa_attention_forward",
    "deepspeed:zero.GatheredParameters",
]
MASKS = ["eager_mask", "flex_attention_mask", "sdpa_mask"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_exists(name):
    module, _, attribute = name.partition(":")
    value = importlib.import_module(module)
    for part in attribute.split("."):
        assert hasattr(value, part), name
        value = getattr(value, part)


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_built_from_a_function_of_positions(name):
    found = inspect.signature(getattr(importlib.import_module("transformers.masking_utils"), name)).parameters
    assert {"mask_function", "attention_mask"} <= set(found)


def test_upstreams_actor_calls_the_model_by_its_call_and_reads_logits():
    from openrlhf.models import Actor

    source = inspect.getsource(Actor.forward)
    call = (
        "self.model(sequences, attention_mask=foward_attention_mask, position_ids=position_ids, **mm_inputs)"
    )
    assert call in source
    assert 'output["logits"] = output["logits"].to(torch.float32)' in source
    assert "self.temperature != 1.0" in source


def test_deepspeed_gathers_a_module_by_hooks_on_its_call():
    from deepspeed.runtime.zero import parameter_offload

    source = inspect.getsource(parameter_offload)
    for hook in (
        "module.register_forward_pre_hook(_pre_forward_module_hook)",
        "module.register_forward_hook(_post_forward_module_hook)",
        "module.register_forward_pre_hook(_post_backward_module_hook)",
    ):
        assert hook in source


def test_a_module_looks_its_forward_up_on_the_instance():
    linear = nn.Linear(2, 3)
    linear.forward = lambda value: value.sum()
    assert linear(linear.weight).ndim == 0
    del linear.forward
    assert linear(linear.weight).shape == (3, 3)
