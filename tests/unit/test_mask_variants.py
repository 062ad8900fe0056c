"""Variants of the learned mask beyond the plain one, the ablation masks, and presets."""

from __future__ import annotations

import pytest
import torch
from batches import by_term, learned

from sparsepo_plugin import registry
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.losses.sparsepo import SparsePOOptions
from sparsepo_plugin.masks import shaping
from sparsepo_plugin.masks.learned import parse_layers
from sparsepo_plugin.masks.ones import OnesMask
from sparsepo_plugin.types import ReferenceShape, ReferenceState

SHAPE = ReferenceShape(hidden_size=16, layers=3, initializer_range=0.5)
# Row by row: a response of the whole row, of its middle, of one token, of its tail.
RESPONSE = torch.tensor(
    [[1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 1]], dtype=torch.bool
)


def state(seed=0):
    rng = torch.Generator().manual_seed(seed)
    hidden = tuple(torch.randn(4, 6, 16, generator=rng) for _ in range(3))
    return ReferenceState(hidden, RESPONSE, torch.randint(50, (4, 6), generator=rng))


def mask_of(seed=1, given=None, **options):
    return learned(SHAPE, seed=seed, **options)(state() if given is None else given).reward_mask


@pytest.mark.parametrize(
    ("text", "want"),
    [("all", (0, 1, 2)), ("last", (2,)), ("0,2", (0, 2)), ("-1", (2,)), ("2, -3", (2, 0)), ("1", (1,))],
)
def test_layers_are_read_from_words_and_lists(text, want):
    assert parse_layers(text, 3) == want


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,3", "indices from -3 to 2"),
        ("0,-3", "every layer once"),
        ("first", "all, last or a list"),
        ("", "list"),
    ],
)
def test_layers_that_cannot_be_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_layers(text, 3)


def test_a_list_of_layers_reads_those_layers_and_no_other():
    base, other = state(), state(seed=9)
    mixed = base._replace(
        hidden_states=(base.hidden_states[0], other.hidden_states[1], base.hidden_states[2])
    )
    assert torch.equal(mask_of(layers="0,2"), mask_of(layers="0,2", given=mixed))
    assert not torch.equal(mask_of(layers="0,1"), mask_of(layers="0,1", given=mixed))
    # One listed layer keeps the normalisation and the mixer, unlike "last".
    names = {name for name, _ in by_term(learned(SHAPE, layers="-1"))["common"].named_parameters()}
    assert {"norm_weight", "mixer"} <= names


def test_a_two_layer_unit_is_its_formula():
    source = learned(SHAPE, width=5, init="published", seed=2)
    mask, given = by_term(source)["common"], state()
    for parameter in mask.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    total = 0
    for layer, value in enumerate(given.hidden_states):
        mean, var = value.mean(-1, keepdim=True), value.var(-1, keepdim=True, unbiased=False)
        normed = (value - mean) / (var + mask.eps).sqrt() * mask.norm_weight + mask.norm_bias
        inner = torch.relu(normed @ mask.inner_weight[layer].T + mask.inner_bias[layer])
        total = total + mask.mixer[layer] * torch.relu(inner @ mask.weight[layer] + mask.bias[layer])
    torch.testing.assert_close(source(given).reward_mask, torch.relu(total)[:, :-1])
    decayed = {id(p) for p in source.decayed_parameters()}
    assert {n for n, p in mask.named_parameters() if id(p) in decayed} == {"weight", "inner_weight", "mixer"}


def test_after_reads_the_state_that_has_seen_the_token_and_before_does_not():
    base = state()
    changed = base._replace(hidden_states=tuple(value.clone() for value in base.hidden_states))
    for value in changed.hidden_states:
        value[:, 3] += 1.7  # the state once token 3 is read; token 3 is mask column 2
    for token, column in (("before", 3), ("after", 2)):
        one, other = mask_of(token=token), mask_of(token=token, given=changed)
        different = (one != other).any(0)
        assert different[column]
        assert different.sum() == 1


@pytest.mark.parametrize("name", shaping.ACTIVATIONS)
@pytest.mark.parametrize("place", ["layer_activation", "mixer_activation"])
def test_every_activation_gives_finite_masks_and_gradients(name, place):
    source = learned(SHAPE, **{place: name})
    values = source(state()).reward_mask
    assert torch.isfinite(values[RESPONSE]).all()
    torch.where(RESPONSE, values, 0.0).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in source.parameters())


def test_activations_are_what_their_names_say():
    score = torch.tensor([[-2.0, 0.0, 1.0, 3.0]])
    response = torch.tensor([[False, True, True, True]])
    want = {
        "relu": [0.0, 0.0, 1.0, 3.0],
        "none": [-2.0, 0.0, 1.0, 3.0],
        "rescale": [0.0, 0.0, 1 / 3, 1.0],
    }
    for name, values in want.items():
        torch.testing.assert_close(shaping.activate(name, score, response), torch.tensor([values]))
    normed = shaping.activate("znorm", score, response)[response]
    torch.testing.assert_close(normed.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(normed.std(unbiased=False), torch.tensor(1.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(shaping.activate("sigmoid", score, response), 1 / (1 + torch.exp(-score)))
    torch.testing.assert_close(shaping.activate("softplus", score, response), torch.log1p(torch.exp(score)))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e30])
def test_a_response_without_contrast_rescales_to_one_everywhere(value):
    flat = torch.full((4, 5), value)
    got = shaping.rescale(flat, RESPONSE)
    assert torch.equal(got, RESPONSE.float())


def test_a_binary_mask_is_0_or_1_and_its_gradient_passes_straight_through():
    source = learned(SHAPE, source="binary", init="published", seed=2)
    values = source(state()).reward_mask
    assert set(values.detach().unique().tolist()) == {0.0, 1.0}
    values.sum().backward()
    plain = learned(SHAPE, mixer_activation="none", init="published", seed=2)
    plain(state()).reward_mask.sum().backward()
    for one, other in zip(source.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(
    ("share", "counts"), [(0.4, (2, 2, 1, 2)), (0.01, (1, 1, 1, 1)), (0.9, (5, 3, 1, 3))]
)
def test_top_keeps_the_largest_share_of_every_response(share, counts):
    full, kept = (mask_of(mixer_activation="softplus", top=part) for part in (1.0, share))
    for row, (count, response) in enumerate(zip(counts, RESPONSE)):
        values, got = full[row][response], kept[row][response]
        assert int((got != 0).sum()) == count
        assert set(got[got != 0].tolist()) == set(values.topk(count).values.tolist())


def test_top_gives_gradient_to_dropped_tokens_too():
    score = torch.rand(4, 5, requires_grad=True)
    shaping.keep_top(score, 0.2, RESPONSE).sum().backward()
    assert torch.equal(score.grad, torch.ones_like(score))


def test_the_floor_is_added_and_normalising_gives_mean_one_on_every_response():
    torch.testing.assert_close(mask_of(floor=0.25), mask_of() + 0.25)
    values = mask_of(normalise="mean", init="published")
    for row, plain in zip(range(4), mask_of(init="published")):
        response = RESPONSE[row]
        if plain[response].any():
            torch.testing.assert_close(values[row][response].mean(), torch.tensor(1.0))
    dead = torch.zeros(4, 5)
    assert not shaping.to_mean_one(dead, RESPONSE).any()


@pytest.mark.parametrize("independent", ["common", "independent"])
def test_a_random_mask_is_a_function_of_seed_and_response_alone(independent):
    options = {"source": "random", "density": 0.4, "masks": independent}
    given = state()
    one, same, other = (learned(SHAPE, seed=seed, **options)(given) for seed in (3, 3, 4))
    assert torch.equal(one.reward_mask, same.reward_mask)
    assert not torch.equal(one.reward_mask[RESPONSE], other.reward_mask[RESPONSE])
    assert (torch.equal(one.reward_mask, one.kl_mask)) is (independent == "common")
    # Another place in the batch and more padding in front change nothing.
    rows = torch.tensor([2, 0, 3, 1])
    shifted = ReferenceState(
        (),
        torch.nn.functional.pad(RESPONSE[rows], (2, 0)),
        torch.nn.functional.pad(given.token_ids[rows], (2, 0)),
    )
    again = learned(SHAPE, seed=3, **options)(shifted).reward_mask[:, 2:]
    assert torch.equal(again, one.reward_mask[rows])


def test_a_random_mask_keeps_its_share_of_tokens():
    ids = torch.arange(64 * 201).reshape(64, 201) % 977
    given = ReferenceState((), torch.ones(64, 200, dtype=torch.bool), ids)
    for density in (0.1, 0.5, 0.9, 1.0):
        mask = learned(SHAPE, source="random", density=density)(given).reward_mask
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        # 12800 draws: five standard deviations of the share.
        assert abs(mask.mean().item() - density) < 5 * (density * (1 - density) / 12800) ** 0.5 + 1e-9


def test_the_uniform_mask_is_ones():
    assert isinstance(learned(SHAPE, source="uniform"), OnesMask)
    assert SparsePOOptions(source="uniform").needs().hidden_states is False
    assert SparsePOOptions(source="random").needs().hidden_states is False


def test_a_preset_sets_defaults_and_given_options_win():
    paper = SparsePOOptions.build({"preset": "paper"})
    published = SparsePOOptions(
        preset="paper", init="published", normalise="none", mask_lr_scale=1.0, anchor=0.0
    )
    assert paper == published
    assert (paper.normalise, paper.floor, paper.token, paper.top, paper.anchor) == (
        "none",
        0.0,
        "before",
        1.0,
        0.0,
    )
    assert (paper.mask_lr, paper.mask_lr_scale) == (None, 1.0)
    assert SparsePOOptions.build({"preset": "paper", "init": "unit"}).init == "unit"
    assert SparsePOOptions.build({}) == SparsePOOptions()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top": 0.0}, r"option top: got 0.0, expected a number in \(0, 1\]"),
        ({"density": 1.5}, r"option density: got 1.5"),
        ({"dropout": 1.0}, r"option dropout: got 1.0"),
        ({"reward_l1": 0.1}, "option reward_l1: got 0.1 with normalise mean, which fixes the L1 norm"),
        ({"kl_l1": 0.1, "normalise": "mean"}, "option kl_l1: got 0.1 with normalise mean"),
        ({"layers": "x"}, "option layers: got 'x'"),
        ({"source": "entropy"}, "option source: got 'entropy', expected one of binary, column, learned"),
        ({"preset": "papr"}, "option preset: got 'papr'"),
        ({"anchor": -1.0}, "option anchor: got -1.0"),
    ],
)
def test_contradictory_options_are_refused_in_one_line(given, message):
    with pytest.raises(UserError, match=message):
        registry.get("sparsepo").options.build(given)
