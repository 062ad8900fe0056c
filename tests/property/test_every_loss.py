"""What must hold for every registered loss: gradients, padding, order, and what lies outside the response."""

from __future__ import annotations

import pytest
import torch
from batches import Batch, Extras, random_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from sparsepo_plugin import registry
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.forward.statistics.reference import token_stats
from sparsepo_plugin.types import LossOutput, Masks, ReferenceShape

NAMES = registry.names()
batches = st.builds(random_batch, st.integers(0, 10_000), pairs=st.integers(1, 3), seq=st.integers(2, 9))
close = torch.testing.assert_close


def evaluate(name: str, batch: Batch, extras: Extras, beta: float = 0.4, **given_options) -> LossOutput:
    loss = registry.get(name)
    objective = ConfiguredLoss(loss, loss.options.build(given_options), ReferenceShape(4, 1))
    stats = token_stats(batch.policy, batch.reference, batch.labels)._replace(**vars(extras))
    learned = name in ("sparsepo", "mapo")
    plain = torch.ones_like(batch.reward_mask)
    kl_mask = plain if objective.options.masks_kl() else None
    masks = Masks(batch.reward_mask, batch.kl_mask) if learned else Masks(plain, kl_mask)
    return objective.evaluate(stats, masks, beta)


def assert_equal(got: LossOutput, want: LossOutput) -> None:
    for left, right in zip(got[:4], want[:4]):
        close(left, right, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(batches, st.integers(1, 4))
def test_padding_changes_nothing(name, batch, extra):
    def pad(value: Tensor) -> Tensor:
        fill = -100 if value.dtype == torch.int64 else 7.5
        return functional.pad(value, (0, 0, 0, extra) if value.ndim == 3 else (0, extra), value=fill)

    extras = Extras(batch)
    assert_equal(evaluate(name, batch.map(pad), extras.map(pad)), evaluate(name, batch, extras))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(batches, st.randoms(use_true_random=False))
def test_the_order_of_pairs_changes_nothing(name, batch, random):
    pairs = len(batch.labels) // 2
    order = torch.tensor(random.sample(range(pairs), pairs))
    rows = torch.cat([order, order + pairs])
    extras = Extras(batch)
    got = evaluate(name, batch.map(lambda v: v[rows]), extras.map(lambda v: v[rows]))
    want = evaluate(name, batch, extras)
    assert_equal(got, LossOutput(*(value[order] for value in want[:4])))


# tdpo2 stops a gradient on purpose: tests/unit/test_loss_formulas.py has it by hand.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "tdpo2"])
@pytest.mark.parametrize("seed", range(2))
def test_the_gradient_is_that_of_the_loss(name, seed):
    batch = random_batch(seed, pairs=2, seq=5, vocab=4)
    extras = Extras(batch)

    def loss(policy: Tensor) -> Tensor:
        return evaluate(name, batch._replace(policy=policy), extras).losses

    assert torch.autograd.gradcheck(loss, batch.policy.clone().requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_outside_the_response_may_be_anything(name):
    batch = random_batch(3)
    stats = token_stats(batch.policy, batch.reference, batch.labels)
    outside = ~stats.response_mask
    assert outside.any()

    def spoil(value: Tensor) -> Tensor:
        return value.masked_fill(outside if value.ndim == 2 else outside[..., None], torch.inf)

    extras = Extras(batch)
    policy = batch.policy.clone().requires_grad_()
    got = evaluate(name, batch._replace(policy=policy), extras.map(spoil))
    assert_equal(got, evaluate(name, batch, extras))
    got.losses.sum().backward()
    assert torch.isfinite(policy.grad).all()
    if got.weights is not None:
        assert not got.weights[outside].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_token_on_each_side_gives_finite_numbers(name, dtype):
    batch = random_batch(1, pairs=1, seq=2, dtype=dtype)
    policy = batch.policy.clone().requires_grad_()
    output = evaluate(name, batch._replace(policy=policy), Extras(batch).map(lambda v: v.to(dtype)))
    output.losses.mean().backward()
    assert output.losses.dtype == dtype
    assert torch.isfinite(output.losses).all()
    assert torch.isfinite(policy.grad).all()
