"""Where activations are recorded: found by structure on every family, the same for every attention kernel."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo_plugin import cli
from sparsepo_plugin.demo import tiny
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.activations import GROUPS, Recorder, feature_mean, find_sites, parse_groups
from sparsepo_plugin.losses.mapo import MaPOOptions
from sparsepo_plugin.masks.activation import ActivationMasks, activation_mask
from sparsepo_plugin.types import ReferenceState

TOKENIZER = tiny.build_tokenizer([f"w{number}" for number in range(40)])
IDS = torch.arange(3, 27).reshape(2, 12)
# Families built straight from transformers, that the tiny builder does not know, with sizes of their own.
OTHERS = {
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "bloom": {"n_layer": 2, "n_head": 2},
    "gptj": {"n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4},
    "phi": {},
    "falcon": {},
    "gpt_bigcode": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "stablelm": {},
    "olmo2": {},
    "cohere": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "deepseek_v3": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                    "n_group": 1, "topk_group": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8,
                    "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1},
}  # fmt: skip


def model_of(family, **changes):
    if family in tiny.FAMILIES:
        return tiny.build_model(TOKENIZER, hidden_size=16, heads=2, model_type=family).eval()
    sizes = {
        "vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
    }  # fmt: skip
    config = AutoConfig.for_model(family, **{**sizes, **OTHERS[family], **changes})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def recorded(model, groups=GROUPS):
    recorder = Recorder(model, find_sites(model, groups))
    with torch.no_grad():
        logits = model(IDS).logits
    recorder.remove()
    return recorder.take(), logits


@pytest.mark.parametrize("family", sorted({*tiny.FAMILIES, *OTHERS}))
def test_every_family_has_every_group_in_every_block_and_all_sites_fire(family):
    model = model_of(family)
    sites = find_sites(model)
    assert len({site.name for site in sites}) == len(sites)
    found, logits = recorded(model)
    assert set(found) == {site.name for site in sites}
    for name, value in found.items():
        assert value.shape == IDS.shape, name
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
    for group in ("mlp", "attn", "resid"):
        blocks = {re.search(r"_(\d+)$", name)[1] for name in found if re.fullmatch(rf"{group}\..*_\d+", name)}
        assert blocks == {"0", "1"}, (group, sorted(found))
    scale = getattr(model.config, "logit_scale", None) or 1.0
    if not getattr(model.config, "final_logit_softcapping", None):
        torch.testing.assert_close(found["logits"] * scale, logits.mean(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_sites_and_values_do_not_depend_on_the_attention_kernel(family):
    model = model_of(family)
    model.set_attn_implementation("eager")
    eager, _ = recorded(model)
    model.set_attn_implementation("sdpa")
    sdpa, _ = recorded(model)
    assert list(eager) == list(sdpa)
    for name, value in eager.items():
        torch.testing.assert_close(value, sdpa[name], atol=1e-4, rtol=1e-3, msg=name)


def test_a_recorder_keeps_means_only_and_forgets_them_when_taken():
    model = model_of("llama")
    recorder = Recorder(model, find_sites(model))
    model(IDS)
    assert not any(value.requires_grad for value in recorder.means.values())
    assert max(value.numel() for value in recorder.means.values()) == IDS.numel()
    assert recorder.take()
    assert recorder.take() == {}
    recorder.remove()
    model(IDS)
    assert recorder.take() == {}


def test_means_are_those_of_the_activations_themselves():
    model = model_of("llama")
    found, _ = recorded(model)
    with torch.no_grad():
        states = model(IDS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(found["resid.embedding"], states[0].mean(-1))
    torch.testing.assert_close(found["resid.block_0"], states[1].mean(-1))
    block = model.model.layers[0]
    inner = block.post_attention_layernorm(states[0] + _attention(block, states[0], model))
    gated = block.mlp.act_fn(block.mlp.gate_proj(inner)) * block.mlp.up_proj(inner)
    torch.testing.assert_close(found["mlp.activation_0"], gated.mean(-1))
    torch.testing.assert_close(
        found["attn.q_proj_0"], block.self_attn.q_proj(block.input_layernorm(states[0])).mean(-1)
    )


def _attention(block, hidden, model):
    positions = torch.arange(hidden.shape[1])[None]
    rotary = model.model.rotary_emb(hidden, positions)
    with torch.no_grad():
        return block.self_attn(
            block.input_layernorm(hidden), position_embeddings=rotary, attention_mask=None, is_causal=True
        )[0]


def test_a_model_without_blocks_of_attention_is_refused():
    with pytest.raises(UserError, match="no stack of blocks with attention"):
        find_sites(torch.nn.Sequential(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("text", "want"), [("all", GROUPS), ("mlp,resid", ("mlp", "resid")), ("attn+logits", ("attn", "logits"))]
)
def test_groups_are_read_in_both_spellings(text, want):
    assert parse_groups(text) == want
    assert MaPOOptions(sites=text).needs().activations == want


@pytest.mark.parametrize(("text", "message"), [("mpl", "did you mean mlp"), ("mlp,mlp", "every group once")])
def test_groups_that_do_not_exist_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        MaPOOptions.build({"sites": text})


def test_masks_lie_in_the_unit_interval_and_rows_without_contrast_weigh_one():
    response = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    value = torch.randn(4, 5)
    value[3] = 2.5
    mask = activation_mask({"mlp.a_0": value}, response)
    assert (mask[~response] == 0).all()
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert torch.equal(mask[1], response[1].float())
    assert torch.equal(mask[3], torch.ones(4))
    assert (mask[0].min(), mask[0].max()) == (0, 1)
    torch.testing.assert_close(mask, activation_mask({"mlp.a_0": 3 * value - 7}, response))


def test_groups_weigh_alike_however_many_sites_they_have():
    response = torch.ones(1, 3, dtype=torch.bool)
    one, other = torch.tensor([[0.0, 1.0, 2.0, 9.0]]), torch.tensor([[2.0, 0.0, 1.0, 9.0]])
    got = activation_mask({"mlp.a": one, "mlp.b": one, "mlp.c": one, "attn.a": other}, response)
    torch.testing.assert_close(got, torch.tensor([[0.5, 0.25, 0.75]]))


@pytest.mark.parametrize(
    ("recordings", "message"),
    [
        ({}, "at least one recording"),
        ({"head.a": torch.zeros(1, 4)}, "expected a group of mlp"),
        ({"mlp.a": torch.zeros(1, 5)}, r"must be \[rows, seq\]"),
    ],
)
def test_recordings_that_do_not_fit_are_refused(recordings, message):
    with pytest.raises(ValueError, match=message):
        activation_mask(recordings, torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="needs activations"):
        ActivationMasks()(ReferenceState((), torch.ones(1, 3, dtype=torch.bool)))


def test_ls_sites_shows_them_from_the_configuration_alone(tmp_path, capsys):
    config = model_of("gpt2").config
    config.save_pretrained(tmp_path)
    assert cli.main(["ls", "--sites", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("GPT2LMHeadModel: ")
    assert any(re.match(r"mlp\.activation_1 +input +transformer\.h\.1\.mlp\.c_proj$", line) for line in lines)
    assert cli.main(["ls", "--sites", str(tmp_path / "gone")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_feature_mean_copies_no_activation():
    """The mean is in float32 without the activation in float32; all sites are cut and rescaled at once."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest, operations = [0], [0]

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            operations[0] += 1
            if isinstance(out, torch.Tensor) and out.is_floating_point():
                largest[0] = max(largest[0], out.numel())
            return out

    activation = torch.randn(3, 40, 64, dtype=torch.bfloat16)
    with Sizes():
        mean = feature_mean(activation)
    torch.testing.assert_close(mean, activation.float().mean(-1), atol=1e-6, rtol=1e-5)
    assert mean.dtype == torch.float32
    assert largest[0] == mean.numel()
    counts = []
    for sites in (4, 400):
        recordings = {f"mlp.site_{number}": torch.randn(4, 9) for number in range(sites)}
        operations[0] = 0
        with Sizes():
            activation_mask(recordings, torch.ones(4, 8, dtype=torch.bool))
        counts.append(operations[0])
    # A view and a part of a stack for each; not the ten of rescaling.
    assert counts[1] - counts[0] <= 4 * 396
