"""Packed samples do not see each other, and sharded parameters do not hide a model's structure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsepo_plugin.adapters.openrlhf.outputs import make_batch
from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf
from sparsepo_plugin.demo.tiny import FAMILIES, build_model, build_tokenizer
from sparsepo_plugin.forward.activations import find_sites
from sparsepo_plugin.forward.pair_statistics import negative_log_likelihood, statistics
from sparsepo_plugin.forward.runner import ModelOutput
from sparsepo_plugin.forward.statistics import LogitMap
from sparsepo_plugin.forward.statistics.reference import token_stats

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
    torch.testing.assert_close(packed[0], padded[mask.bool()], atol=1e-6, rtol=0)
    assert (crossed[0] - padded[mask.bool()])[11:].abs().max() > 1e-2  # the first sample sees no other


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_sites_are_the_same_when_zero_3_has_taken_the_weights_away(family):
    model = build_model(build_tokenizer(WORDS), hidden_size=32, heads=2, layers=3, model_type=family)
    whole = find_sites(model)
    for parameter in model.parameters():
        parameter.ds_shape = parameter.shape  # what DeepSpeed leaves of a parameter
        parameter.data = torch.empty(0)
    assert find_sites(model) == whole
    assert isinstance(model.get_output_embeddings(), nn.Module)


def view(logits, batch, packed):
    """A reading of all logits, as a leaf, and that leaf."""
    leaf = (logits[batch.attention.bool()][None] if packed else logits).clone().requires_grad_()
    rows, columns = batch.window.predicting()
    index = batch.window.source[rows, columns]
    return leaf, ModelOutput(batch.window, index, leaf.flatten(0, 1), None, LogitMap(), None, ())


@pytest.mark.parametrize("first_prompt", [0, 3])
def test_statistics_of_packed_logits_equal_those_of_padded_ones(first_prompt):
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(9) < torch.tensor([9, 5, 7, 2])[:, None]).long()
    logits, reference = (torch.randn(4, 9, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    ids = torch.randint(6, mask.shape, generator=generator)
    # An empty prompt makes a sample's first token a response token, which nothing predicts.
    prompts = [first_prompt, 2, first_prompt, 1]
    labels = ids.masked_fill((torch.arange(9) < torch.tensor(prompts)[:, None]) | (mask == 0), -100)
    whole = token_stats(logits, reference, labels)
    gradients = []
    for packed in (False, True):
        batch = make_batch(ids, mask, prompts, packed=packed)
        (leaf, policy), (_, other) = (view(table, batch, packed) for table in (logits, reference))
        stats = statistics(policy, other, with_kl=True)
        assert stats.response_mask.sum() == whole.response_mask.sum()
        for value, want in zip(stats[:3], whole[:3]):
            torch.testing.assert_close(
                value[stats.response_mask], want[whole.response_mask], atol=1e-12, rtol=0
            )
            assert (value[~stats.response_mask] == 0).all()
        (stats.policy_logps.sum(1).square().sum() + stats.token_kl.square().sum()).backward()
        nll = negative_log_likelihood(policy)
        chosen = whole.policy_logps[:2].sum(1) / whole.response_mask[:2].sum(1)
        torch.testing.assert_close(nll, -chosen.mean(), atol=1e-12, rtol=0)
        nll.backward()
        gradients.append(leaf.grad)
        assert statistics(policy, None, with_kl=False).reference_logps is None
    torch.testing.assert_close(gradients[1][0], gradients[0][mask.bool()], atol=1e-12, rtol=0)
    assert gradients[0].abs().max() > 0
