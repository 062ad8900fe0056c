"""Dropout off in the policy: in training mode a model of any family gives the numbers of evaluation."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo_plugin.adapters import dropout

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}
LLAMA = {**SIZES, "intermediate_size": 32, "num_key_value_heads": 2}
# Families that keep their rates as modules, as numbers of modules, in the configuration alone; and noise.
FAMILIES = {
    "gpt2": (SIZES, {"attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1}),
    "llama": (LLAMA, {"attention_dropout": 0.1}),
    "qwen2": (LLAMA, {"attention_dropout": 0.1}),
    "opt": (
        {**SIZES, "ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 64},
        {"dropout": 0.1, "attention_dropout": 0.1, "layerdrop": 0.3},
    ),
    "bloom": ({**SIZES, "n_layer": 2, "n_head": 2}, {"hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "gptj": (
        {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 64, "rotary_dim": 4},
        {"attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1},
    ),
    "gpt_neo": (
        {**SIZES, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
        {"attention_dropout": 0.1, "embed_dropout": 0.1, "resid_dropout": 0.1},
    ),
    "gpt_neox": ({**SIZES, "intermediate_size": 32}, {"hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "falcon": (
        {**SIZES, "new_decoder_architecture": False},
        {"hidden_dropout": 0.1, "attention_dropout": 0.1},
    ),
    "persimmon": ({**SIZES, "intermediate_size": 32}, {"hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "phi": (LLAMA, {"attention_dropout": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1}),
    "phi3": ({**LLAMA, "pad_token_id": 0}, {"attention_dropout": 0.1, "resid_pdrop": 0.1}),
    "stablelm": (LLAMA, {"hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "starcoder2": (LLAMA, {"residual_dropout": 0.1, "embedding_dropout": 0.1, "attention_dropout": 0.1}),
    "mixtral": (
        {**LLAMA, "num_local_experts": 2},
        {"attention_dropout": 0.1, "router_jitter_noise": 0.3},
    ),
    "biogpt": (
        {**SIZES, "intermediate_size": 32},
        {"hidden_dropout_prob": 0.1, "activation_dropout": 0.1, "layerdrop": 0.3},
    ),
}  # fmt: skip
IDS = torch.arange(3, 35).reshape(2, 16)


def build(family):
    sizes, rates = FAMILIES[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **rates))
    return model, rates


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_pass_equals_an_evaluation(family):
    model, rates = build(family)
    expected = logits(model.eval())
    assert not torch.equal(logits(model.train()), expected)  # the rates do act
    said = dropout.switch_off(model)
    assert torch.equal(logits(model.train()), expected)
    assert f"{next(name for name in sorted(rates) if 'drop' in name)} 0.1" in said


@pytest.mark.parametrize("family", ["gpt2", "falcon"])
def test_a_saved_configuration_has_its_own_rates(family, tmp_path):
    model, rates = build(family)
    dropout.switch_off(model)
    with dropout.as_configured(model):
        model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {name: saved[name] for name in rates} == rates
    assert all(getattr(model.config, name) == 0 for name in rates)


def test_the_dropout_of_lora_layers_stays():
    model, _ = build("gpt2")
    config = peft.LoraConfig(r=2, lora_dropout=0.4, target_modules=["c_attn"], init_lora_weights=False)
    model = peft.get_peft_model(model, config)
    dropout.switch_off(model)
    assert not torch.equal(logits(model.train()), logits(model.eval()))
    rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.0, 0.4}


def test_a_model_without_dropout_says_nothing():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **LLAMA))
    assert dropout.switch_off(model) is None
