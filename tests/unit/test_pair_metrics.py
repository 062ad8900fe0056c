"""Metrics: what they are, and that any split into batches averages to the same."""

from __future__ import annotations

import math

import pytest
import torch
from batches import BETA, random_batch

from sparsepo_plugin import metrics
from sparsepo_plugin.losses.sparsepo import SparsePOOptions, sparsepo
from sparsepo_plugin.metrics import MetricSum
from sparsepo_plugin.types import Masks


def of(batch, masks=None):
    masks = Masks(batch.reward_mask, batch.kl_mask) if masks is None else masks
    stats = batch.stats()
    return metrics.pair_metrics(
        stats, masks, sparsepo(stats, masks, BETA, SparsePOOptions(masks="independent")), BETA
    )


def part(batch, pairs):
    count = len(batch.labels) // 2
    rows = torch.tensor([*pairs, *(pair + count for pair in pairs)])
    return batch.map(lambda value: value[rows])


@pytest.mark.parametrize(
    "split", [[[0], [1, 2, 3, 4]], [[0, 1], [2, 3], [4]], [[4, 0, 3, 1, 2]], [[], [0, 1, 2, 3, 4]]]
)
def test_any_split_into_batches_and_processes_averages_to_the_same(split):
    batch = random_batch(1, pairs=5)
    whole = metrics.ratios(of(batch))
    total: dict[str, MetricSum] = {}
    for pairs in split:
        total = metrics.add(total, of(part(batch, pairs)) if pairs else {})
    found = metrics.ratios(total)
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


def test_metrics_are_what_their_names_say():
    batch = random_batch(2, pairs=3)
    stats, found = batch.stats(), metrics.ratios(of(batch))
    response, ratio = stats.response_mask, stats.policy_logps - stats.reference_logps
    chosen, rejected = slice(0, 3), slice(3, 6)
    score = ((batch.reward_mask * ratio + batch.kl_mask * stats.token_kl) * response).sum(-1)
    margin = BETA * (score[chosen] - score[rejected])
    unmasked = BETA * (ratio.sum(-1)[chosen] - ratio.sum(-1)[rejected])
    want = {
        "loss": torch.nn.functional.softplus(-margin).mean(),
        "margin": margin.mean(),
        "accuracy": (margin > 0).double().mean(),
        "chosen_rewards": BETA * score[chosen].mean(),
        "rejected_rewards": BETA * score[rejected].mean(),
        "margin_unmasked": unmasked.mean(),
        "accuracy_unmasked": (unmasked > 0).double().mean(),
        "chosen_logps": stats.policy_logps[chosen].sum(-1).mean(),
        "rejected_logps": stats.policy_logps[rejected].sum(-1).mean(),
        "chosen_sequence_kl": stats.token_kl[chosen].sum(-1).mean(),
        "rejected_sequence_kl": stats.token_kl[rejected].sum(-1).mean(),
        "chosen_masked_sequence_kl": (batch.kl_mask * stats.token_kl * response)[chosen].sum(-1).mean(),
        "rejected_masked_sequence_kl": (batch.kl_mask * stats.token_kl * response)[rejected].sum(-1).mean(),
        "reward_mask_sparsity": (batch.reward_mask[response] == 0).double().mean(),
        "kl_mask_sparsity": (batch.kl_mask[response] == 0).double().mean(),
        "reward_mask_mean": batch.reward_mask[response].mean(),
        "kl_mask_mean": batch.kl_mask[response].mean(),
        "reward_mask_l1": batch.reward_mask[response].abs().sum() / 6,
    }
    for name, value in want.items():
        assert found[name] == pytest.approx(value.item(), rel=1e-12), name


def test_sparsity_counts_exact_zeros_among_response_tokens_only():
    batch = random_batch(3, pairs=2)
    response = batch.stats().response_mask
    mask = torch.where(response, 1.0, 0.0).double()
    assert metrics.ratios(of(batch, Masks(mask, mask)))["reward_mask_sparsity"] == 0
    assert metrics.ratios(of(batch, Masks(1 - mask, mask)))["reward_mask_sparsity"] == 1
    tiny = torch.full_like(mask, 1e-30)
    assert metrics.ratios(of(batch, Masks(tiny, tiny)))["kl_mask_sparsity"] == 0
    first = torch.zeros_like(mask)
    first[0, response[0].nonzero()[0]] = 1
    assert metrics.ratios(of(batch, Masks(first, first)))["kl_mask_sparsity"] == 1 - 1 / int(response.sum())


def test_a_tie_counts_one_half():
    batch = random_batch(4, pairs=2)
    same = batch._replace(policy=batch.reference)
    found = metrics.ratios(of(same))
    assert (found["accuracy"], found["accuracy_unmasked"], found["margin"]) == (0.5, 0.5, 0.0)


def test_sequence_kl_excludes_prompt_and_padding():
    batch = random_batch(5)
    outside = torch.cat([~batch.stats().response_mask, torch.ones(4, 1, dtype=torch.bool)], 1)
    changed = batch._replace(policy=torch.where(outside[..., None], 9 * batch.policy.flip(-1), batch.policy))
    one, other = metrics.ratios(of(batch)), metrics.ratios(of(changed))
    assert one == other


def test_a_loss_without_reference_or_kl_has_no_such_metrics():
    batch = random_batch(6)
    stats = batch.stats()
    masks = Masks(torch.ones_like(batch.reward_mask), None)
    output = sparsepo(stats, masks, BETA, SparsePOOptions())
    found = metrics.pair_metrics(stats._replace(token_kl=None), masks, output, BETA)
    assert not any("kl" in name for name in found)
    found = metrics.pair_metrics(stats._replace(token_kl=None, reference_logps=None), masks, output, BETA)
    assert "margin_unmasked" not in found
    assert "accuracy" in found


def test_metrics_are_detached_numbers_and_nothing_averages_to_nan():
    batch = random_batch(7)
    found = of(
        batch._replace(policy=batch.policy.requires_grad_(), reward_mask=batch.reward_mask.requires_grad_())
    )
    assert all(isinstance(number, (int, float)) for entry in found.values() for number in entry)
    assert math.isnan(metrics.ratios({"loss": MetricSum(0.0, 0.0)})["loss"])


def test_adding_keeps_names_that_only_one_side_has():
    found = metrics.add({"a": MetricSum(1.0, 2.0)}, {"b": MetricSum(3.0, 4.0), "a": MetricSum(1.0, 1.0)})
    assert found == {"a": (2.0, 3.0), "b": (3.0, 4.0)}
