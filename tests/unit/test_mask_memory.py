"""A mask keeps the reference's states for its backward pass and nothing of their size beside them."""

from __future__ import annotations

import pytest
import torch
from batches import by_term, learned
from torch.autograd import gradcheck
from torch.nn import functional

from sparsepo_plugin.masks.state_product import state_products
from sparsepo_plugin.types import ReferenceShape, ReferenceState

SHAPE = ReferenceShape(hidden_size=64, layers=4, initializer_range=0.3)
OPTIONS = {
    "common": {},
    "independent": {"masks": "independent"},
    "two layers": {"width": 8},
    "last": {"layers": "last"},
    "some layers, after": {"layers": "0,-1", "token": "after"},
}


def state(dtype, outlier=0.0):
    """States as language models have them: an offset, and one feature far from all others."""
    rng = torch.Generator().manual_seed(0)
    hidden = [torch.randn(4, 33, 64, generator=rng) + 0.3 for _ in range(4)]
    for value in hidden:
        value[..., 7] += outlier
    return ReferenceState(tuple(value.to(dtype) for value in hidden), torch.ones(4, 32, dtype=torch.bool))


def plain_score(mask, unit, hidden, dtype):
    """Raw score of a unit by torch's own LayerNorm."""
    hidden = hidden.to(dtype)
    if mask.mixed:
        gain, shift = mask.norm_weight.to(dtype), mask.norm_bias.to(dtype)
        hidden = functional.layer_norm(hidden, gain.shape, gain, shift, mask.eps)
    if mask.options.width:
        hidden = torch.relu(hidden @ mask.inner_weight[unit].to(dtype).T + mask.inner_bias[unit].to(dtype))
    return hidden @ mask.weight[unit].to(dtype) + mask.bias[unit].to(dtype)


def made(options):
    source = learned(SHAPE, seed=3, **options)
    torch.manual_seed(1)
    for mask in by_term(source).values():
        for name in ("norm_weight", "norm_bias", "bias", "inner_bias"):
            if hasattr(mask, name):
                torch.nn.init.normal_(getattr(mask, name), 1.0, 0.3)
    return source


def values_and_gradients(source, given):
    found = source(given)
    source.zero_grad()
    ((found.reward_mask * torch.linspace(-1, 1, 32)).sum() + found.kl_mask.square().sum()).backward()
    return [found.reward_mask, found.kl_mask, *(parameter.grad for parameter in source.parameters())]


def by_layer_norm(options, dtype, given):
    """The same values and gradients with torch's own LayerNorm, in a dtype."""
    source = made(options).to(dtype)
    for mask in by_term(source).values():
        mask._score = lambda unit, hidden, dtype, mask=mask: plain_score(mask, unit, hidden, dtype)
    return values_and_gradients(source, given)


@pytest.mark.parametrize("outlier", [0.0, 200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIONS)
def test_values_and_gradients_are_those_of_the_layer_norm(name, dtype, outlier):
    given = state(dtype, outlier)
    got = values_and_gradients(made(OPTIONS[name]), given)
    exact = by_layer_norm(OPTIONS[name], torch.float64, given)
    rounded = by_layer_norm(OPTIONS[name], torch.float32, given)
    assert outlier or sum(float(value.abs().max()) > 1e-3 for value in exact) > len(exact) / 2
    for value, want, other in zip(got, exact, rounded, strict=True):
        size = max(1.0, float(want.abs().max()))
        # Far outliers cost the LayerNorm itself digits in float32.
        tolerance = max(1e-6, 8 * float((other.double() - want).abs().max()) / size)
        torch.testing.assert_close(value.double() / size, want / size, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_saved_beside_the_states_is_small(name, dtype):
    given, source = state(dtype), made(OPTIONS[name])
    states = {value.untyped_storage().data_ptr() for value in given.hidden_states}
    saved: dict[int, int] = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in states:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found = source(given)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in source.parameters()}
    extra = sum(size for place, size in saved.items() if place not in parameters)
    elements = sum(value.numel() for value in given.hidden_states)
    # A LayerNorm written down keeps 8 bytes per element, and 16 where the terms have masks of their own.
    assert extra / elements < 2.0
    assert found.reward_mask.requires_grad


@pytest.mark.parametrize("at_once", [1, 10**6], ids=["layer by layer", "all at once"])
@pytest.mark.parametrize("eps", [None, 1e-5])
def test_gradcheck(eps, at_once, monkeypatch):
    monkeypatch.setattr(
        "sparsepo_plugin.masks.state_product._together",
        lambda states: [slice(i, i + at_once) for i in range(0, len(states), at_once)],
    )
    torch.manual_seed(0)
    hidden = [torch.randn(3, 5, 7, dtype=torch.float64) for _ in range(3)]
    weights = torch.randn(3, 2, 7, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda w: state_products(hidden, w, eps), (weights,))
    normed = [functional.layer_norm(h, h.shape[-1:], eps=eps) if eps else h for h in hidden]
    expected = torch.stack([h @ w.T for h, w in zip(normed, weights)])
    torch.testing.assert_close(state_products(hidden, weights, eps), expected)
