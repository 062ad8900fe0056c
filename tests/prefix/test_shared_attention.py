"""Shared rows give the numbers of two rows: log-probabilities, hidden states, gradients, on many families."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from prefix_models import (
    EAGER_ONLY,
    SUPPORTED,
    Batch,
    build,
    odd_batch,
    separate,
    summed_logps,
    tokens,
    whole_labels,
)
from transformers import AutoModelForCausalLM

from sparsepo_plugin.adapters.prefix import attach, detach, shared_rows, sharing
from sparsepo_plugin.adapters.prefix.attention import (
    EAGER,
    FLEX,
    SDPA,
    VARLEN,
    VARLEN_EAGER,
    kernel_for,
    kernels_for,
)

CELLS = [
    (name, attention)
    for name in SUPPORTED
    for attention in ("sdpa", "eager")
    if not (attention == "sdpa" and name in EAGER_ONLY)
]


def objective(logits, states, labels):
    """A number that every log-probability and hidden state enters with a weight of its own."""
    logps = summed_logps(logits, labels)
    weights = torch.linspace(-1, 1, len(logps))
    counted = (labels != -100)[..., None]
    scale = torch.linspace(0.5, 1, states[0].shape[-1])
    return (weights * logps).sum() + sum((state * counted * scale).square().mean() for state in states)


def run_shared(model, rows):
    with sharing(rows):
        output = model(rows.token_ids, attention_mask=rows.attention_mask, output_hidden_states=True)
    return rows.window.take(output.logits), [rows.window.take(state) for state in output.hidden_states]


def run_separate(model, batch, rows):
    """The same windows from two rows per pair."""
    output = separate(model, batch, output_hidden_states=True)
    row = torch.arange(len(rows.own_positions))[:, None]
    pick = lambda value: value[row, rows.own_positions]  # noqa: E731
    return pick(output.logits), [pick(state) for state in output.hidden_states]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# The kernel, and whether all pairs stand in one row.
LAYOUTS = {
    "mask": (None, False),
    "mask, one row": (None, True),
    "sequences": (VARLEN, True),
    "sequences, padded rows": (VARLEN, False),
}


def layout(name, attention):
    kernel, one_row = LAYOUTS[name]
    return {VARLEN: VARLEN_EAGER}.get(kernel, kernel) if attention == "eager" else kernel, one_row


def both_ways(model, batch, kernel=None, one_row=False):
    """(log-probabilities, states, gradients) of two rows and of shared rows."""
    rows = shared_rows(*batch.parts)
    rows = rows.packed() if one_row else rows
    labels, found = rows.window.labels, []
    real = labels != -100
    real[:, 0] = True
    for shared in (False, True):
        if shared:
            attach(model, kernel)
        logits, states = run_shared(model, rows) if shared else run_separate(model, batch, rows)
        grads = gradients(model, objective(logits, states, labels))
        found.append((summed_logps(logits, labels), [state[real] for state in states], grads))
    detach(model)
    return found


def assert_same(expected, got, tolerance=1e-5):
    for want, have in zip(expected[:2], got[:2]):
        torch.testing.assert_close(have, want, atol=tolerance, rtol=0)
    assert expected[2].keys() == got[2].keys()
    for name, gradient in expected[2].items():
        # An entry of a large matrix of gradients is held to the size of that matrix.
        size = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(got[2][name] / size, gradient / size, atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize(("name", "attention"), CELLS)
def test_shared_rows_give_the_numbers_of_two_rows(name, attention, how):
    model, batch = build(name, attention), odd_batch()
    expected, got = both_ways(model, batch, *layout(how, attention))
    assert_same(expected, got)
    assert model.config._attn_implementation == attention
    assert max(float(g.abs().max()) for g in got[2].values()) > 1e-2


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_log_probabilities_of_windows_are_those_of_whole_rows(name):
    model, batch = build(name), odd_batch()
    rows = shared_rows(*batch.parts)
    with torch.no_grad():
        expected = summed_logps(separate(model, batch).logits, whole_labels(batch))
        attach(model)
        got = summed_logps(run_shared(model, rows)[0], rows.window.labels)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert (expected < -1).sum() > 10


@pytest.mark.parametrize("how", ["mask", "sequences"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3-sliding", "gpt2"])
def test_recomputed_layers_give_the_same_gradients(name, reentrant, how):
    model, batch = build(name), odd_batch()
    expected, _ = both_ways(model, batch)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    _, got = both_ways(model, batch, *LAYOUTS[how])
    assert_same(expected, got)


@pytest.mark.parametrize("how", ["mask", "sequences"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_an_adapter_around_the_model_changes_nothing(name, how):
    targets = {"gpt2": ["c_attn"]}.get(name, ["q_proj", "v_proj"])
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets, init_lora_weights=False)
    model, batch = get_peft_model(build(name), config), odd_batch()
    expected, got = both_ways(model, batch, *LAYOUTS[how])
    assert_same(expected, got)
    assert all("lora" in parameter for parameter in got[2])


@pytest.mark.parametrize("kernel", [SDPA, EAGER, VARLEN, VARLEN_EAGER])
def test_bfloat16_is_as_far_from_float32_as_with_two_rows(kernel):
    attention = "eager" if "eager" in kernel else "sdpa"
    batch, how = odd_batch(), (kernel, kernel.startswith(VARLEN))
    exact, _ = both_ways(build("gemma3", attention), batch, *how)
    rounded, got = both_ways(build("gemma3", attention, torch.bfloat16), batch, *how)
    error, own = ((value[0] - exact[0]).abs().max() for value in (rounded, got))
    assert own < 2 * error
    assert error > 0.01


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "qwen3-sliding", "gpt_neox", "llama4-chunked"])
def test_flex_attention_sees_what_eager_attention_sees(name):
    # Uncompiled, on CPU, without gradients: FlexAttention itself knows no more there.
    model, batch = build(name, "eager"), odd_batch()
    rows = shared_rows(*batch.parts)
    torch.compiler.set_stance("force_eager")
    try:
        with torch.no_grad():
            expected = run_separate(model, batch, rows)
            attach(model, FLEX)
            got = run_shared(model, rows)
    finally:
        torch.compiler.set_stance("default")
    real = rows.window.labels != -100
    for want, have in zip([expected[0], *expected[1]], [got[0], *got[1]]):
        torch.testing.assert_close(have[real], want[real], atol=1e-5, rtol=0)


def test_a_model_keeps_its_numbers_where_no_rows_are_shared():
    model, batch = build("gemma3"), odd_batch()
    with torch.no_grad():
        before = separate(model, batch).logits
        attach(model)
        assert model.config._attn_implementation == SDPA
        assert torch.equal(separate(model, batch).logits, before)


def test_the_saved_model_does_not_name_our_attention(tmp_path):
    model = build("llama")
    attach(model)
    model.save_pretrained(tmp_path)
    assert "sparsepo" not in (tmp_path / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_two_models_share_rows_at_once():
    batch = odd_batch()
    rows = shared_rows(*batch.parts)
    models = [build("llama"), build("gpt2")]
    for model in models:
        attach(model)
    with sharing(rows), torch.no_grad():
        got = [model(rows.token_ids).logits for model in models]
    for model, logits in zip(models, got):
        with torch.no_grad():
            assert torch.equal(run_shared(model, rows)[0], rows.window.take(logits))


def test_a_model_that_is_not_attached_is_noticed():
    rows = shared_rows(*odd_batch().parts)
    with pytest.raises(RuntimeError, match="asked for no mask of them"), sharing(rows):
        build("llama")(rows.token_ids)


def test_input_of_another_shape_is_refused():
    model, rows = build("llama"), shared_rows(*odd_batch().parts)
    attach(model)
    with pytest.raises(ValueError, match=r"got an input of shape \(2, 3\)"), sharing(rows):
        model(rows.token_ids[:2, :3])


def test_attaching_twice_is_refused_and_detaching_twice_is_not():
    model = build("llama")
    attach(model)
    with pytest.raises(ValueError, match="attached already"):
        attach(model)
    detach(model)
    detach(model)
    attach(model)


def test_attention_over_sequences_is_tried_first_and_written_out_for_those_who_ask_for_eager():
    assert kernels_for(build("llama")) == [VARLEN, SDPA]
    assert kernels_for(build("gemma2", "eager")) == [VARLEN_EAGER, EAGER]


@pytest.mark.parametrize("kernel", [VARLEN, VARLEN_EAGER])
def test_a_model_over_sequences_keeps_its_numbers_where_no_rows_are_shared(kernel):
    model, batch = build("gemma3", "eager" if "eager" in kernel else "sdpa"), odd_batch()
    with torch.no_grad():
        before = separate(model, batch).logits
        attach(model, kernel)
        torch.testing.assert_close(separate(model, batch).logits, before, atol=1e-6, rtol=0)


def test_no_kernel_of_ours_is_taken_for_one_of_the_hub():
    """transformers 5.17 loads whatever has flash in its name from its hub of kernels."""
    from sparsepo_plugin.adapters.prefix import attention

    names = [getattr(attention, name) for name in ("VARLEN", "VARLEN_FLASH", "VARLEN_EAGER", "SDPA", "FLEX")]
    assert [name for name in names if "flash" in name] == []


def test_flash_attention_is_replaced_by_what_computes_the_same():
    kernels = {}
    for name in ("llama", "gemma2", "gpt_oss"):
        model = build(name, "eager")
        model.config._attn_implementation_internal = "flash_attention_2"
        kernels[name] = kernel_for(model)
    # On CPU; gpt_oss has sinks and Gemma 2 a soft-cap, which sdpa leaves out.
    assert kernels == {"llama": SDPA, "gemma2": EAGER, "gpt_oss": EAGER}


def test_learned_positions_reach_as_far_as_in_two_rows():
    rows = shared_rows(*odd_batch().parts)
    assert rows.token_ids.shape[1] > SUPPORTED["gpt2"][1]["n_positions"] > rows.position_ids.max()


def test_a_single_pair_of_single_tokens():
    batch = Batch([tokens("ab")], [tokens("ac")], [1])
    expected, got = both_ways(build("llama"), batch)
    assert_same(expected, got)
