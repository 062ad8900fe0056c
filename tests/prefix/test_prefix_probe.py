"""The probe lets families pass that work, and notices every way in which shared rows are known to fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from prefix_models import EAGER_ONLY, REFUSED, SUPPORTED, build
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo_plugin.adapters.prefix import (
    attach,
    attention,
    comparison,
    detach,
    probe,
    reason_against,
    spans,
    start,
    varlen,
)

FORMATS = [torch.float32, torch.bfloat16, torch.float16]
BY_COLUMN = ["llama", "mistral-sliding", "gemma3", "gpt_neox"]


@pytest.mark.parametrize("kernel", ["first", "second"])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("name", SUPPORTED)
def test_families_that_work_pass(name, dtype, kernel):
    model = build(name, "eager" if name in EAGER_ONLY else "sdpa", dtype)
    assert reason_against(model, training=True) is None
    kernels = attention.kernels_for(model)
    assert probe(model, kernels[kernel == "second"], training=True) is None


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_families_that_fail_are_refused_and_noticed(name, dtype):
    model = build(name, "eager", dtype)
    reason, found = reason_against(model, training=False), probe(model)
    assert reason is not None
    assert "\n" not in reason
    expected = {"recurrent_gemma": "see chosen ones", "lfm2": "see chosen ones"}
    assert expected.get(name, "asked for no mask of them") in found
    assert start(model, training=False) == reason
    assert model.config._attn_implementation == "eager"


def break_sharing(kind, monkeypatch):
    """Break the sharing of rows as a model that does not fit would."""
    mask, give = attention.mask_of_shared_rows, attention._give_rows
    if kind == "everything is seen":
        plain = lambda function, rows: lambda *place: function(*place)  # noqa: E731
        monkeypatch.setattr(attention, "mask_of_shared_rows", plain)
    elif kind == "windows count columns":

        def by_column(function, rows):
            inside = mask(lambda b, h, q, k: k <= q, rows)
            return lambda b, h, q, k: inside(b, h, q, k) & function(b, h, q, k)

        monkeypatch.setattr(attention, "mask_of_shared_rows", by_column)
    elif kind == "windows are lost":
        monkeypatch.setattr(
            attention, "mask_of_shared_rows", lambda _, rows: mask(lambda b, h, q, k: k <= q, rows)
        )
    elif kind == "rejected does not see the prompt":

        def cut_off(function, rows):
            whole, parts = mask(function, rows), rows.segments
            return lambda b, h, q, k: whole(b, h, q, k) & ((parts[b, q] != 2) | (parts[b, k] == 2))

        monkeypatch.setattr(attention, "mask_of_shared_rows", cut_off)
    else:
        assert kind == "positions count columns"

        def by_order(names, module, args, kwargs):
            given = give(names, module, args, kwargs)
            if given is not None:
                length = given[1]["position_ids"].shape[1]
                given[1]["position_ids"] = torch.arange(length).expand_as(given[1]["position_ids"])
            return given

        monkeypatch.setattr(attention, "_give_rows", by_order)


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *[("everything is seen", name) for name in BY_COLUMN],
        *[("rejected does not see the prompt", name) for name in BY_COLUMN],
        *[("positions count columns", name) for name in BY_COLUMN],
        ("windows count columns", "mistral-sliding"),
        ("windows count columns", "gemma3"),
        ("windows are lost", "mistral-sliding"),
        ("windows are lost", "gemma3"),
        ("windows are lost", "llama4-chunked"),
    ],
)
def test_a_wrong_mask_or_position_is_noticed(kind, name, dtype, monkeypatch):
    model = build(name, "sdpa", dtype)
    break_sharing(kind, monkeypatch)
    reason = probe(model)
    assert reason is not None
    assert "differ from separate ones" in reason or "see chosen ones" in reason
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_a_kernel_that_leaves_something_out_is_noticed(dtype):
    # sdpa leaves out Gemma 2's soft-cap: a model that ran with it must not go on without.
    model = build("gemma2", "eager", dtype)
    assert probe(model) is None
    assert "differ from separate ones" in probe(model, attention.SDPA)


def break_sequences(kind, monkeypatch):
    """Break attention over sequences as a kernel that does not fit would."""
    real = spans.SpanMask.visible.func
    if kind == "aligned at the start":

        def visible(mask):
            found = real(mask)
            sizes = zip(found, mask.spans.query_sizes, mask.spans.key_sizes)
            return [s if s is None else torch.ones(q, k).tril().bool() for s, q, k in sizes]

        monkeypatch.setattr(spans.SpanMask, "visible", property(visible))
    elif kind == "the window is lost":
        plain = attention.span_mask
        monkeypatch.setattr(
            attention, "span_mask", lambda function, rows: replace(plain(function, rows), window=None)
        )
    elif kind == "the prefix is not gathered":

        def without(self, sizes, seq, device):
            alone = [size._replace(common=0) for size in sizes]
            return made(alone, seq, device)

        made = spans.Spans.of
        monkeypatch.setattr(spans.Spans, "of", classmethod(without))
    else:
        assert kind == "rejected goes on after chosen"

        def one_sequence(self, sizes, seq, device):
            return made([size._replace(chosen=size.total) for size in sizes], seq, device)

        made = spans.Spans.of
        monkeypatch.setattr(spans.Spans, "of", classmethod(one_sequence))


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("aligned at the start", "llama"),
        ("aligned at the start", "gemma3"),
        ("the window is lost", "mistral-sliding"),
        ("the window is lost", "gemma3"),
        ("the prefix is not gathered", "gpt2"),
        ("rejected goes on after chosen", "llama"),
        ("rejected goes on after chosen", "gemma3"),
    ],
)
def test_wrong_sequences_are_noticed(kind, name, dtype, monkeypatch):
    model = build(name, "sdpa", dtype)
    break_sequences(kind, monkeypatch)
    reason = probe(model, attention.VARLEN)
    assert reason is not None
    assert "differ from separate ones" in reason or "see chosen ones" in reason
    # What does not fit is passed over, not trained with.
    assert start(model, training=True) is None
    assert model.config._attn_implementation == attention.SDPA
    detach(model)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("failure", ["raises", "is wrong"])
def test_a_kernel_whose_backward_fails_is_passed_over_in_training(failure, trained, monkeypatch):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            if failure == "raises":
                raise RuntimeError("no kernel for the backward pass")
            return gradient * 1.5

    sdpa = varlen._by_sdpa
    monkeypatch.setattr(varlen, "_by_sdpa", lambda *given: Broken.apply(sdpa(*given)))
    model = build("llama")
    reason = probe(model, attention.VARLEN, training=trained)
    expected = {"raises": "no kernel for the backward pass", "is wrong": "gradient by query is off by"}
    assert expected[failure] in reason if trained else reason is None
    assert start(model, training=trained) is None
    assert model.config._attn_implementation == (attention.SDPA if trained else attention.VARLEN)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_flex_attention_is_probed_on_rows_that_run_trainings_kernel(monkeypatch):
    model, seen = build("llama"), []
    model.config.max_position_embeddings = 4096
    compare = comparison._compare
    monkeypatch.setattr(
        comparison, "_compare", lambda m, pairs, *rest: seen.append(pairs) or compare(m, pairs, *rest)
    )
    resets = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    torch.compiler.set_stance("force_eager")
    try:
        assert probe(model, attention.FLEX) is None
        # Uncompiled and on CPU it has no backward pass, which the probe must find out.
        assert "do not run" in probe(model, attention.FLEX, training=True)
    finally:
        torch.compiler.set_stance("default")
    assert min(seen[0].chosen.shape[1], seen[0].rejected.shape[1]) > 128
    assert len(resets) == 2


def test_flex_attention_may_be_compiled_for_every_case_of_training():
    from torch import _dynamo

    with _dynamo.config.patch(recompile_limit=8):
        model = build("gemma3")
        attach(model, attention.VARLEN)
        detach(model)
        assert _dynamo.config.recompile_limit == 8
        attach(model, attention.FLEX)
        assert _dynamo.config.recompile_limit == 64


def test_weights_that_are_not_finite_do_not_pass():
    model = build("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    assert "nan" in probe(model)


def test_the_probe_leaves_the_model_as_it_was():
    model = build("llama").train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    assert probe(model) is None
    assert [module.training for module in model.modules()] == modes
    assert model.config._attn_implementation == "sdpa"
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_of_the_probe_outgrow_a_sliding_window():
    for size, outgrown in ((6, True), (512, True), (4096, False)):
        config = AutoConfig.for_model("mistral", sliding_window=size)
        pairs = comparison._pairs(config, torch.device("cpu"))
        assert (min(pairs.chosen.shape[1], pairs.rejected.shape[1]) > size) is outgrown


def test_start_attaches_a_model_that_passes():
    model = build("qwen3-sliding")
    assert start(model, training=True) is None
    assert model.config._attn_implementation == attention.VARLEN
    detach(model)


@pytest.mark.parametrize(
    ("kind", "changed", "named"),
    [
        ("gpt2", {"attn_pdrop": 0.1}, "attn_dropout 0.1"),
        ("gpt2", {"resid_pdrop": 0.2}, "resid_dropout 0.2"),
        ("llama", {"attention_dropout": 0.3}, "attention_dropout 0.3"),
        ("opt", {"dropout": 0.1}, "dropout 0.1"),
        ("opt", {"layerdrop": 0.1}, "layerdrop 0.1"),
    ],
)
def test_dropout_is_a_reason_in_training_alone(kind, changed, named):
    sizes = {**SUPPORTED[kind][1], **changed}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **{"vocab_size": 97, "pad_token_id": 1, **sizes})
    )
    assert named in reason_against(model, training=True)
    assert reason_against(model, training=False) is None


def test_the_balancing_loss_of_experts_is_a_reason():
    model = build("mixtral")
    assert reason_against(model, training=True) is None
    assert "balancing loss" in reason_against(model, training=True, balancing=True)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"attn_temperature_tuning": True}, "temperature"),
        ({"layer_types": ["full_attention", "linear_attention", "full_attention"]}, "linear_attention"),
    ],
)
def test_what_a_configuration_says_is_read(changed, said):
    model = build("llama")
    for name, value in changed.items():
        setattr(model.config, name, value)
    assert said in reason_against(model, training=False)


def test_a_module_without_a_transformers_model_is_a_reason():
    assert "holds no transformers model" in reason_against(nn.Linear(2, 2), training=False)
