"""The learned mask module: shapes, seeds, variants, precision, errors."""

from __future__ import annotations

import pytest
import torch
from batches import by_term, learned

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.masks.learned import LearnedOptions
from sparsepo_plugin.masks.ones import OnesMask
from sparsepo_plugin.types import ReferenceShape, ReferenceState

SHAPE = ReferenceShape(hidden_size=16, layers=3, initializer_range=0.5)


def state(layers=3, width=16, dtype=torch.float32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    hidden = tuple(torch.randn(4, 6, width, generator=rng).to(dtype) for _ in range(layers))
    return ReferenceState(hidden, torch.ones(4, 5, dtype=torch.bool))


def naive(mask, hidden):
    """The formula of the paper, token by token."""
    total = 0
    for layer, value in enumerate(hidden):
        normed = (value - value.mean(-1, keepdim=True)) / (
            value.var(-1, keepdim=True, unbiased=False) + mask.eps
        ) ** 0.5
        unit = (normed * mask.norm_weight + mask.norm_bias) @ mask.weight[layer] + mask.bias[layer]
        total = total + mask.mixer[layer] * torch.relu(unit)
    return torch.relu(total)[:, :-1]


def test_the_mask_over_all_layers_is_the_papers_formula():
    source = learned(SHAPE, init="published", seed=2)
    mask = by_term(source)["common"]
    torch.manual_seed(0)
    for parameter in (mask.bias, mask.norm_bias, mask.mixer):
        torch.nn.init.normal_(parameter)
    got, want = source(state()).reward_mask, naive(mask, state().hidden_states)
    torch.testing.assert_close(got, want)
    assert (got > 0).any()
    assert (got == 0).any()


def test_the_mask_over_the_last_layer_reads_nothing_else():
    source = learned(SHAPE, layers="last", seed=1)
    mask, given = by_term(source)["common"], state()
    want = torch.relu(given.hidden_states[-1] @ mask.weight[0] + mask.bias[0])[:, :-1]
    torch.testing.assert_close(source(given).reward_mask, want)
    other = state(seed=1)._replace(hidden_states=(*state(seed=1).hidden_states[:-1], given.hidden_states[-1]))
    assert torch.equal(source(other).reward_mask, source(given).reward_mask)
    assert {name for name, _ in mask.named_parameters()} == {"weight", "bias"}


def test_without_activations_the_mask_is_linear_and_signed():
    source = learned(SHAPE, layer_activation="none", mixer_activation="none")
    torch.manual_seed(0)
    mask = by_term(source)["common"]
    for parameter in (mask.weight, mask.mixer):
        torch.nn.init.normal_(parameter)
    values = source(state()).reward_mask
    assert (values < 0).any()
    assert (values > 0).any()


def test_masks_have_one_value_per_predicted_token_and_are_not_negative():
    for options in ({}, {"masks": "independent"}, {"layers": "last"}):
        masks = learned(SHAPE, **options)(state())
        assert masks.reward_mask.shape == masks.kl_mask.shape == (4, 5)
        assert (masks.reward_mask >= 0).all()


def test_the_mask_of_a_token_reads_only_the_state_before_it():
    masks, base = learned(SHAPE, seed=3), state()
    changed = base._replace(hidden_states=tuple(value.clone() for value in base.hidden_states))
    for value in changed.hidden_states:
        value[:, 3:] += 1.7
    one, other = (masks(given).reward_mask for given in (base, changed))
    assert torch.equal(one[:, :3], other[:, :3])
    assert not torch.equal(one[:, 3:], other[:, 3:])


def test_the_same_seed_gives_the_same_module_and_the_callers_random_state_is_kept():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (learned(SHAPE, masks="independent", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters()))
    assert not torch.equal(by_term(one)["reward"].weight, by_term(other)["reward"].weight)
    assert not torch.equal(by_term(one)["reward"].weight, by_term(one)["kl"].weight)


def test_published_initialisation_has_the_reference_models_own_scale_and_no_bias():
    shape = ReferenceShape(4096, 64, initializer_range=0.02)
    mask = by_term(learned(shape, init="published"))["common"]
    assert mask.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert mask.mixer.std().item() == pytest.approx(0.02, rel=0.3)
    assert not mask.bias.any()
    assert (mask.norm_weight == 1).all()


@pytest.mark.parametrize("layers", ["all", "last"])
def test_unit_initialisation_starts_the_masks_near_one(layers):
    shape = ReferenceShape(64, 8, initializer_range=0.001)
    masks = learned(shape, layers=layers, masks="independent", init="unit")(state(layers=8, width=64))
    for mask in masks:
        assert (mask - 1).abs().max() < 0.05
        assert mask.std() > 0


def test_a_common_mask_is_one_tensor():
    masks = learned(SHAPE)(state())
    assert masks.reward_mask is masks.kl_mask
    independent = learned(SHAPE, masks="independent")(state())
    assert not torch.equal(independent.reward_mask, independent.kl_mask)


@pytest.mark.parametrize(("used", "plain"), [("reward", "kl"), ("kl", "reward")])
def test_a_mask_on_one_term_leaves_weight_one_on_the_other(used, plain):
    source = learned(SHAPE, mask_on=used, seed=1)
    masks = source(state())
    assert list(by_term(source)) == [used]
    assert (getattr(masks, f"{plain}_mask") == 1).all()
    assert not (getattr(masks, f"{used}_mask") == 1).any()
    assert not getattr(masks, f"{plain}_mask").requires_grad


def test_no_mask_at_all_is_refused():
    with pytest.raises(UserError, match="option mask_on: got 'none', expected one of both, reward, kl"):
        LearnedOptions.build({"mask_on": "none"})


def test_dropout_acts_in_training_only():
    source, plain = learned(SHAPE, dropout=0.5), learned(SHAPE)
    plain.load_state_dict(source.state_dict())
    torch.manual_seed(0)
    assert not torch.equal(source(state()).reward_mask, source(state()).reward_mask)
    source.eval()
    assert torch.equal(source(state()).reward_mask, plain(state()).reward_mask)


def test_a_dead_mask_gives_zeros_and_finite_gradients():
    source = learned(SHAPE)
    with torch.no_grad():
        by_term(source)["common"].mixer.fill_(-1.0)
    values = source(state()).reward_mask
    assert not values.any()
    values.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in source.parameters())


@pytest.mark.parametrize("layers", ["all", "last"])
def test_bfloat16_parameters_and_states_are_computed_in_float32(layers):
    source = learned(SHAPE, layers=layers, seed=1).to(torch.bfloat16)
    wide = learned(SHAPE, layers=layers).float()
    wide.load_state_dict(source.state_dict())
    given = state(dtype=torch.bfloat16)
    got = source(given).reward_mask
    assert got.dtype == torch.float32
    want = wide(
        ReferenceState(tuple(h.float() for h in given.hidden_states), given.response_mask)
    ).reward_mask
    assert torch.equal(got, want)
    assert source.double()(given).reward_mask.dtype == torch.float64


def test_wrong_numbers_of_layers_and_widths_are_refused():
    source = learned(SHAPE)
    with pytest.raises(ValueError, match="3 layers: got 2"):
        source(state(layers=2))
    with pytest.raises(ValueError, match="width 16: got 8"):
        source(state(width=8))
    with pytest.raises(ValueError, match="width 16: got 8"):
        learned(SHAPE, layers="last")(state(width=8))


def test_weights_decay_and_biases_and_norms_do_not():
    for layers, names in (("all", {"weight", "mixer"}), ("last", {"weight"})):
        source = learned(SHAPE, layers=layers, masks="independent")
        decayed = {id(p) for p in source.decayed_parameters()}
        found = {name.rsplit(".", 1)[-1] for name, p in source.named_parameters() if id(p) in decayed}
        assert found == names
        assert len(decayed) == 2 * len(names)


def test_the_mask_of_ones_has_no_parameters_and_a_kl_mask_only_if_asked():
    for kl in (True, False):
        source = OnesMask(kl)
        masks = source(state())
        assert not list(source.parameters())
        assert torch.equal(masks.reward_mask, torch.ones(4, 5))
        assert (masks.kl_mask is not None) is kl
