"""A merged adapter gives the logits of base and adapter, with tied weights too, or nothing is written."""

from __future__ import annotations

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo_plugin.adapters.openrlhf import merging
from sparsepo_plugin.errors import RunFailedError

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}
LLAMA = {**SIZES, "intermediate_size": 32, "num_key_value_heads": 2, "tie_word_embeddings": True}
FAMILIES = {
    "llama": (LLAMA, ["embed_tokens", "lm_head", "q_proj"]),
    "qwen2": (LLAMA, ["embed_tokens", "lm_head", "q_proj"]),
    "gemma2": ({**LLAMA, "head_dim": 8}, ["embed_tokens", "lm_head", "q_proj"]),
    "gpt2": ({"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 64}, ["wte", "lm_head", "c_attn"]),
    "opt": (
        {**SIZES, "ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 64},
        ["embed_tokens", "lm_head", "q_proj"],
    ),
    "bloom": ({**SIZES, "n_layer": 2, "n_head": 2}, ["word_embeddings", "lm_head", "query_key_value"]),
}
CHOICES = {
    "embedding": lambda names: names[:1],
    "head": lambda names: names[1:2],
    "both": lambda names: names,
    "linear": lambda _: "all-linear",
}


def with_adapter(family, targets, folder, dtype=torch.float32):
    """A model read from disk, with an adapter that is not small."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family][0])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    config = peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_and_written_model_gives_the_adapters_logits(family, choice, tmp_path):
    targets = CHOICES[choice](FAMILIES[family][1])
    model = with_adapter(family, targets, tmp_path / "base")
    expected = merging.logits(model)
    merged = merging.merge(model, torch.float32)
    merged.save_pretrained(tmp_path / "out")
    merging.check_written(merged, tmp_path / "out", False)
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(merging.logits(read), expected, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_a_merge_into_shorter_numbers_is_that_of_float32_rounded(tmp_path):
    model = with_adapter("llama", ["embed_tokens", "lm_head"], tmp_path / "base", torch.bfloat16)
    merged = merging.merge(model, torch.bfloat16)
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    merged.save_pretrained(tmp_path / "out")
    merging.check_written(merged, tmp_path / "out", False)


@pytest.mark.filterwarnings("ignore")
def test_a_merge_that_would_change_the_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "_untie", lambda _: None)  # as PEFT alone merges
    model = with_adapter("llama", ["lm_head"], tmp_path / "base")
    with pytest.raises(RunFailedError, match=r"merging changes the model: a logit differs by .*"):
        merging.merge(model, torch.float32)


@pytest.mark.filterwarnings("ignore")
def test_a_written_model_that_is_read_as_another_is_refused(tmp_path):
    merged = merging.merge(with_adapter("llama", ["q_proj"], tmp_path / "base"), torch.float32)
    with pytest.raises(RunFailedError, match=r"the written model is another: a logit differs by"):
        merging.check_written(merged, tmp_path / "base", False)
