"""Packed samples do not see each other, and sharded parameters do not hide a model's structure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsepo_plugin.activations import find_sites
from sparsepo_plugin.adapters.openrlhf.outputs import (
    ModelOutput,
    negative_log_likelihood,
    response_labels,
    statistics,
    unpack,
)
from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf
from sparsepo_plugin.demo.tiny import FAMILIES, build_model, build_tokenizer

WORDS = [f"w{number}" for number in range(40)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_packed_logits_equal_padded_ones(family, attention):
    import_openrlhf()
    from openrlhf.models.ring_attn_utils import unpad_and_slice_tensor

    model = build_model(build_tokenizer(WORDS), hidden_size=32, heads=2, model_type=family).eval()
    model.set_attn_implementation(attention)
    model.config.use_cache = False  # as upstream's Actor sets it; with a cache transformers would not look
    lengths = torch.tensor([11, 7, 1, 9])
    mask = (torch.arange(11) < lengths[:, None]).long()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 40, mask.shape, generator=generator) * mask
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    packed_ids, packed_positions, *_ = unpad_and_slice_tensor(ids, mask, None)
    with torch.no_grad():
        padded = model(ids, attention_mask=mask, position_ids=positions).logits
        packed = model(packed_ids, attention_mask=None, position_ids=packed_positions).logits
        crossed = model(packed_ids, attention_mask=None, position_ids=torch.arange(28)[None]).logits
    spread = unpack(packed, mask)
    torch.testing.assert_close(spread[mask.bool()], padded[mask.bool()], atol=1e-6, rtol=0)
    assert (spread[mask == 0] == 0).all()
    assert (unpack(crossed, mask)[1:] - padded[1:])[mask[1:].bool()].abs().max() > 1e-2


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_sites_are_the_same_when_zero_3_has_taken_the_weights_away(family):
    model = build_model(build_tokenizer(WORDS), hidden_size=32, heads=2, layers=3, model_type=family)
    whole = find_sites(model)
    for parameter in model.parameters():
        parameter.ds_shape = parameter.shape  # what DeepSpeed leaves of a parameter
        parameter.data = torch.empty(0)
    assert find_sites(model) == whole
    assert isinstance(model.get_output_embeddings(), nn.Module)


def views(logits, reference, labels, mask):
    """A batch as both models see it, padded and packed; the policy's logits are leaves."""
    found = []
    for pack in (False, True):
        given = [value[mask.bool()][None] if pack else value for value in (logits, reference)]
        leaf = given[0].clone().requires_grad_()
        rest = (labels, (), labels, {}, [0, 1], mask if pack else None)
        found.append((leaf, ModelOutput(leaf, *rest), ModelOutput(given[1], *rest)))
    return found


@pytest.mark.parametrize("first_prompt", [0, 3])
def test_statistics_of_packed_logits_equal_those_of_padded_ones(first_prompt):
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(9) < torch.tensor([9, 5, 7, 2])[:, None]).long()
    logits, reference = (torch.randn(4, 9, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    ids = torch.randint(6, mask.shape, generator=generator)
    # An empty prompt makes a sample's first token a response token, which nothing predicts.
    labels = response_labels(ids, mask, [first_prompt, 2, first_prompt, 1])
    gradients = []
    (_, padded, other), _ = both = views(logits, reference, labels, mask)
    expected = statistics(padded, other, with_kl=True)
    for leaf, policy, ref in both:
        stats = statistics(policy, ref, with_kl=True)
        for value, want in zip(stats, expected):
            assert value.shape == (4, 8)
            assert value.dtype == want.dtype
            torch.testing.assert_close(value, want, atol=1e-12, rtol=0)
        loss = (stats.policy_logps * torch.arange(8)).sum() + stats.token_kl.square().sum()
        (loss + negative_log_likelihood(policy)).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1][0], gradients[0][mask.bool()], atol=1e-12, rtol=0)
    assert gradients[0].abs().max() > 0
    assert statistics(both[1][1], None, with_kl=False).reference_logps is None
