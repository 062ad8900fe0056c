"""The mask module has its own rate and decay, and Adam, whichever optimizer trains the policy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsepo_plugin.adapters import mask_parameters
from sparsepo_plugin.adapters.openrlhf import muon
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.losses.sparsepo import SparsePOOptions
from sparsepo_plugin.registry import get
from sparsepo_plugin.types import ReferenceShape

SHAPE = ReferenceShape(hidden_size=4, layers=2)


@pytest.fixture
def objective():
    options = SparsePOOptions(mask_lr=0.5, mask_weight_decay=0.25, masks="independent")
    return ConfiguredLoss(get("sparsepo"), options, SHAPE)


@pytest.fixture
def masks(objective):
    return objective.build_masks(0)


def members(groups):
    return [id(p) for group in groups for p in group["params"]]


def test_adam_groups_keep_the_policys_and_add_two_of_the_masks(objective, masks):
    policy = nn.Linear(3, 3)
    weights = [policy.weight, *(p for p in masks.parameters() if p.ndim > 1)]
    others = [policy.bias, *(p for p in masks.parameters() if p.ndim < 2)]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    found = mask_parameters.regroup(groups, masks, objective, 1e-3)
    assert [group.get("lr") for group in found] == [None, None, 0.5, 0.5]
    assert [group["weight_decay"] for group in found] == [0.1, 0.0, 0.25, 0.0]
    assert sorted(members(found)) == sorted(members(groups))
    assert {id(p) for p in found[2]["params"]} == {id(p) for p in masks.decayed_parameters()}
    assert len(groups[0]["params"]) == 3  # the caller's groups are not touched


def test_a_group_that_held_masks_only_is_dropped(objective, masks):
    found = mask_parameters.regroup([{"params": list(masks.parameters())}], masks, objective, 1e-3)
    assert len(found) == 2


def test_muon_leaves_the_masks_to_adam_at_their_own_rate(objective, masks):
    matrix, norm = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3))
    for parameter in (matrix, norm, *masks.parameters()):
        parameter.use_muon = parameter.ndim > 1
    flat = [matrix, norm, *masks.parameters()]
    adam = {"lr": 1e-3, "betas": (0.8, 0.9), "eps": 1e-7, "weight_decay": 0.1, "name": "adam-params"}
    groups = [
        {"params": [p for p in flat if p.use_muon], "use_muon": True, "lr": 0.02, "name": "muon-params"},
        {"params": [p for p in flat if not p.use_muon], "use_muon": False, **adam},
    ]
    seen = []
    build = muon.sparing_masks(lambda found, **options: seen.append((found, options)), masks, objective, 1e-3)
    build(groups, adam_optimizer=None)
    ((found, options),) = seen
    assert options == {"adam_optimizer": None}
    assert [group["use_muon"] for group in found] == [True, False, False, False]
    assert [group["lr"] for group in found] == [0.02, 1e-3, 0.5, 0.5]
    assert [group["weight_decay"] for group in found[1:]] == [0.1, 0.25, 0.0]
    assert all(group["betas"] == (0.8, 0.9) and group["eps"] == 1e-7 for group in found[1:])
    assert [p is matrix for p in found[0]["params"]] == [True]
    assert sorted(members(found)) == sorted(map(id, flat))
    assert not any(p.use_muon for p in masks.parameters())
