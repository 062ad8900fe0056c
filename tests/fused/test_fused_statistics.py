"""Fused statistics against the textbook: every value and every gradient, over odd shapes, maps and tiles."""

from __future__ import annotations

import naive
import pytest
import torch
from torch.autograd import gradcheck

from sparsepo_plugin.forward.statistics import LogitMap, fused_statistics, shapes
from sparsepo_plugin.forward.statistics import fused as module

MAPS = {"plain": LogitMap(), "scaled": LogitMap(0.3), "capped": LogitMap(1.5, 4.0)}
SHAPES = [(1, 2, 1), (37, 101, 16), (64, 7, 3), (5, 1000, 33)]


@pytest.fixture(params=["kept", "slices", "tiles of rows", "one row at a time"])
def tiles(request, monkeypatch):
    """Everything kept, or the logits computed again in tiles that do not divide the shapes.

    A GPU goes through whole rows; a CPU through slices, and through rows where their KL needs it.
    """
    monkeypatch.setattr(module, "KEEP", module.KEEP if request.param == "kept" else 0)
    monkeypatch.setattr(shapes, "TILE", {"cpu": 1 if request.param.startswith("one") else 450})
    monkeypatch.setattr(module, "GUESS", module.GUESS if request.param == "slices" else -1.0)


def both(given, logit_map=naive.PLAIN, other=naive.PLAIN, with_kl=True):
    """Values and gradients of a weighted sum, of the fused and of the plain way."""
    weights = torch.linspace(-1, 2, len(given.targets), dtype=given.hidden.dtype)
    results = []
    for found in (
        fused_statistics(
            given.hidden,
            given.head(),
            given.targets,
            given.reference(other),
            with_kl=with_kl,
            logit_map=logit_map,
        ),
        naive.statistics(given, logit_map, other),
    ):
        total = (found[0] * weights).sum() + ((found[2] * weights.flip(0)).sum() if with_kl else 0)
        results.append((found, torch.autograd.grad(total, given.leaves())))
    return results


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_equal_the_textbook(shape, name, bias, tiles):
    given = naive.case(*shape, bias=bias, other_width=shape[2] + 2)
    (found, gradients), (expected, wanted) = both(given, MAPS[name], MAPS["capped"])
    for value, want in zip((*found[:3], *gradients), (*expected, *wanted), strict=True):
        torch.testing.assert_close(value, want, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("with_kl", [False, True])
def test_a_frozen_head_gets_no_gradient_and_the_states_get_the_same(with_kl, tiles):
    frozen, trained = (naive.case(9, 50, 8, frozen=flag) for flag in (True, False))
    (_, (only,)), (_, (want,)) = both(frozen, with_kl=with_kl)
    torch.testing.assert_close(only, want, atol=1e-12, rtol=1e-10)
    assert frozen.weight.grad is None
    torch.testing.assert_close(only, both(trained, with_kl=with_kl)[0][1][0], atol=1e-12, rtol=1e-10)


def test_without_a_reference_only_the_policys_log_probability_is_computed(tiles):
    given = naive.case(9, 50, 8)
    found = fused_statistics(given.hidden, given.head(), given.targets)
    assert found.reference_logps is None
    assert found.token_kl is None
    expected = naive.statistics(given)[0]
    torch.testing.assert_close(found.policy_logps, expected, atol=1e-12, rtol=0)
    got, want = (
        torch.autograd.grad(v.square().sum(), given.leaves()) for v in (found.policy_logps, expected)
    )
    for value, other in zip(got, want):
        torch.testing.assert_close(value, other, atol=1e-11, rtol=0)


@pytest.mark.parametrize("name", MAPS)
def test_gradcheck(name, tiles):
    given = naive.case(4, 11, 3)

    def function(hidden, weight, bias):
        found = fused_statistics(
            hidden,
            module.HeadWeights(weight, bias),
            given.targets,
            given.reference(MAPS[name]),
            with_kl=True,
            logit_map=MAPS[name],
        )
        return found.policy_logps, found.token_kl

    # A second backward pass computes what the first one used up: another order of the same sums.
    assert gradcheck(function, (given.hidden, given.weight, given.bias), nondet_tol=1e-12)


# A gradient is rounded to its leaf's dtype.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 4e-2)])
def test_low_precision_input_is_computed_in_float32(dtype, tolerance, tiles):
    given = naive.case(21, 300, 24, dtype=dtype)
    (found, gradients), _ = both(given) if dtype == torch.float32 else (both_low(given), None)
    _, (expected, wanted) = both(naive.in_float64(given))
    for value, want in zip(found, expected):
        assert value.dtype == torch.float32
        # The input is exact in both; only float32 arithmetic separates them, whatever the input's dtype.
        torch.testing.assert_close(value.double(), want, atol=2e-5, rtol=2e-5)
    for leaf, value, want in zip(given.leaves(), gradients, wanted):
        assert value.dtype == leaf.dtype == dtype
        torch.testing.assert_close(value.double(), want, atol=tolerance, rtol=tolerance)


def both_low(given):
    weights = torch.linspace(-1, 2, len(given.targets))
    found = fused_statistics(given.hidden, given.head(), given.targets, given.reference(), with_kl=True)
    total = (found[0] * weights).sum() + (found[2] * weights.flip(0)).sum()
    return found, torch.autograd.grad(total, given.leaves())


def test_the_kl_of_equal_models_is_zero_and_tiny_ones_keep_their_digits(tiles):
    given = naive.case(6, 400, 16, dtype=torch.float32, bias=False)
    same = given._replace(reference_hidden=given.hidden.detach(), reference_weight=given.weight.detach())
    kl = fused_statistics(same.hidden, same.head(), same.targets, same.reference(), with_kl=True).token_kl
    assert kl.abs().max() < 1e-12
    near = same._replace(hidden=(same.hidden.detach() * (1 + 3e-4)).requires_grad_())
    kl = fused_statistics(near.hidden, near.head(), near.targets, near.reference(), with_kl=True).token_kl
    exact = naive.statistics(naive.in_float64(near))[2]
    assert (exact > 0).all()
    assert exact.max() < 1e-7
    torch.testing.assert_close(kl.double(), exact.detach(), rtol=2e-2, atol=0)


def test_models_that_contradict_each_other_give_a_large_finite_kl(tiles):
    given = naive.case(3, 20, 4, bias=False)
    hard = given._replace(
        hidden=(given.hidden.detach() * 300).float().requires_grad_(),
        weight=given.weight.detach().float(),
        reference_hidden=(given.reference_hidden * 300).float(),
        reference_weight=given.reference_weight.float(),
    )
    found = fused_statistics(hard.hidden, hard.head(), hard.targets, hard.reference(), with_kl=True)
    exact = naive.statistics(naive.in_float64(hard))
    assert exact[2].min() > 100
    torch.testing.assert_close(found.token_kl.double(), exact[2].detach(), rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(found.token_kl.sum(), [hard.hidden])
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("shift", [0.7, 6.0, 150.0, -150.0])
def test_a_first_slice_that_misleads_about_the_normalisers_spoils_nothing(shift, monkeypatch):
    monkeypatch.setattr(module, "KEEP", 0)
    monkeypatch.setattr(shapes, "TILE", {"cpu": 1})
    given = naive.case(9, 300, 8, dtype=torch.float32)
    near = given.bias.detach() + 1e-3 * torch.randn(300, generator=torch.Generator().manual_seed(1))
    # The policy is the reference but for the first slice, of 64 token ids, which has another share of all.
    near[:64] += shift
    given = given._replace(
        reference_hidden=given.hidden.detach(), reference_weight=given.weight.detach(),
        reference_bias=near,
    )  # fmt: skip
    (found, gradients), _ = both(given)
    _, (expected, wanted) = both(naive.in_float64(given))
    for value, want in zip((found[0], found[2], *gradients), (expected[0], expected[2], *wanted)):
        torch.testing.assert_close(value.double(), want, atol=2e-5, rtol=2e-5)


def test_no_tokens_give_empty_statistics_and_zero_gradients(tiles):
    given = naive.case(0, 12, 4)
    found = fused_statistics(given.hidden, given.head(), given.targets, given.reference(), with_kl=True)
    assert [value.shape for value in found[:3]] == [(0,)] * 3
    found.policy_logps.sum().backward()
    assert (given.weight.grad == 0).all()


def test_a_head_that_all_processes_open_is_opened_equally_often_whatever_the_batch():
    for count in (1, 40):
        opened: list[str] = []
        given = naive.case(count, 30, 4)
        reference = given.reference(opened=opened)
        found = fused_statistics(given.hidden, given.head(), given.targets, reference, with_kl=True)
        (found.policy_logps.sum() + found.token_kl.sum()).backward()
        assert len(opened) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": torch.zeros(3, dtype=torch.long)}, "targets \\[n\\]: got"),
        ({"hidden": torch.zeros(9, 5)}, "expected hidden"),
        ({"reference_hidden": torch.zeros(4, 8)}, "rows of hidden: got 4 and 9"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, words):
    given = naive.case(9, 50, 8)._replace(**change)
    with pytest.raises(ValueError, match=words):
        fused_statistics(given.hidden, given.head(), given.targets, given.reference(), with_kl=True)


def test_a_kl_needs_a_reference():
    given = naive.case(9, 50, 8)
    with pytest.raises(ValueError, match="with_kl needs a reference"):
        fused_statistics(given.hidden, given.head(), given.targets, with_kl=True)


def test_nothing_of_size_tokens_by_vocabulary_is_held(monkeypatch):
    """The largest tensor any operation makes, beside the head's gradient, is a tile."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for value in out if isinstance(out, tuple | list) else (out,):
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    largest[0] = max(largest[0], value.untyped_storage().nbytes() // value.element_size())
            return out

    monkeypatch.setattr(module, "KEEP", 0)
    monkeypatch.setattr(shapes, "TILE", {"cpu": 4096})
    given = naive.case(600, 500, 4, dtype=torch.float32)
    with Sizes():
        found = fused_statistics(given.hidden, given.head(), given.targets, given.reference(), with_kl=True)
        (found.policy_logps.sum() + found.token_kl.sum()).backward()
    # 64 columns of 600 rows is the smallest slice of the backward pass; all logits would be 300000.
    assert largest[0] <= 64 * 600


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_entropy_equals_the_textbook_and_changes_no_other_number(shape, name, reference, tiles):
    given = naive.case(*shape)
    rows = {"reference": given.reference(), "with_kl": True} if reference else {}
    arguments = (given.hidden, given.head(), given.targets)
    found = fused_statistics(*arguments, **rows, with_entropy=True, logit_map=MAPS[name])
    plain = fused_statistics(*arguments, **rows, logit_map=MAPS[name])
    with torch.no_grad():
        logits = MAPS[name].image(torch.nn.functional.linear(*given[:3]))
    log_p = torch.log_softmax(logits, -1)
    torch.testing.assert_close(found.entropy, -(log_p.exp() * log_p).sum(-1), atol=1e-12, rtol=1e-10)
    assert not found.entropy.requires_grad
    assert plain.entropy is None
    for value, want in zip(found[:3], plain[:3]):
        torch.testing.assert_close(value, want, atol=1e-12, rtol=1e-12)
    gradients = [torch.autograd.grad(one.policy_logps.sum(), given.leaves()) for one in (found, plain)]
    for value, want in zip(*gradients):
        torch.testing.assert_close(value, want, atol=1e-12, rtol=1e-12)


def test_the_entropy_of_a_certain_token_is_0_and_that_of_logits_far_apart_is_finite(tiles):
    hidden = torch.eye(3, dtype=torch.float64)
    weight = torch.tensor([[0.0, 900.0, -900.0], [0.0, -900.0, 900.0], [0.0, -torch.inf, 0.0]]).double()
    weight = torch.where(weight.isinf(), -1e9, weight)
    head = naive.HeadWeights(weight, None)
    found = fused_statistics(hidden, head, torch.tensor([0, 1, 1]), with_entropy=True)
    want = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64).log()
    torch.testing.assert_close(found.entropy, want, atol=1e-12, rtol=0)
