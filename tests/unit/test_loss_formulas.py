"""Every loss against its formula, written out token by token in Python floats, and against upstream's."""

from __future__ import annotations

import math

import pytest
import torch
from batches import random_batch

from sparsepo_plugin import registry
from sparsepo_plugin.adapters.openrlhf import standin
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.forward.statistics.reference import token_stats
from sparsepo_plugin.types import Masks, ReferenceShape

SHAPE = ReferenceShape(hidden_size=4, layers=1)


def log_softmax(values):
    top = max(values)
    total = math.log(sum(math.exp(value - top) for value in values)) + top
    return [value - total for value in values]


def log_sigmoid(value):
    return -math.log1p(math.exp(-value)) if value > 0 else value - math.log1p(math.exp(value))


class Response:
    """Per token of one response: log-probabilities of both models, their KL, both masks."""

    def __init__(self, batch, row):
        self.policy, self.reference, self.kl, self.reward_mask, self.kl_mask = [], [], [], [], []
        for position, label in enumerate(batch.labels[row].tolist()):
            if position == 0 or label == -100:
                continue
            p = log_softmax(batch.policy[row, position - 1].tolist())
            q = log_softmax(batch.reference[row, position - 1].tolist())
            self.policy.append(p[label])
            self.reference.append(q[label])
            self.kl.append(sum(math.exp(b) * (b - a) for a, b in zip(p, q)))
            self.reward_mask.append(batch.reward_mask[row, position - 1].item())
            self.kl_mask.append(batch.kl_mask[row, position - 1].item())

    @property
    def ratio(self):
        return sum(self.policy) - sum(self.reference)

    @property
    def masked_score(self):
        ratios = (m * (p - q) for m, p, q in zip(self.reward_mask, self.policy, self.reference))
        return sum(ratios) + sum(m * kl for m, kl in zip(self.kl_mask, self.kl))

    @property
    def mean_logp(self):
        return sum(self.policy) / len(self.policy)


# beta, chosen, rejected -> loss; each written from its paper, not from the package.
FORMULAS = {
    "dpo": lambda b, c, r: -log_sigmoid(b * (c.ratio - r.ratio)),
    "ipo": lambda b, c, r: (c.ratio - r.ratio - 1 / (2 * b)) ** 2,
    "cdpo": lambda b, c, r: (
        -0.9 * log_sigmoid(b * (c.ratio - r.ratio)) - 0.1 * log_sigmoid(-b * (c.ratio - r.ratio))
    ),
    # TDPO writes KL(ref || pi) of the rejected minus that of the chosen inside the sigmoid with a minus.
    "tdpo1": lambda b, c, r: -log_sigmoid(b * (c.ratio - r.ratio) - b * (sum(r.kl) - sum(c.kl))),
    "tdpo2": lambda b, c, r: -log_sigmoid(b * (c.ratio - r.ratio) - b * 0.5 * (sum(r.kl) - sum(c.kl))),
    "simpo": lambda b, c, r: -log_sigmoid(b * c.mean_logp - b * r.mean_logp - 1.0),
    "dpop": lambda b, c, r: -log_sigmoid(b * (c.ratio - r.ratio - 50.0 * max(0.0, -c.ratio))),
    "sparsepo": lambda b, c, r: -log_sigmoid(b * (c.masked_score - r.masked_score)),
    "mapo": lambda b, c, r: -log_sigmoid(b * (c.masked_score - r.masked_score)),
}


def evaluated(name, batch, beta, **given):
    loss = registry.get(name)
    objective = ConfiguredLoss(loss, loss.options.build(given), SHAPE)
    stats = token_stats(batch.policy, batch.reference, batch.labels, with_kl=True)
    ones = torch.ones_like(batch.reward_mask)
    masks = {
        "sparsepo": Masks(batch.reward_mask, batch.kl_mask),
        "mapo": Masks(batch.reward_mask, batch.kl_mask),
    }
    plain = Masks(ones, ones if objective.options.masks_kl() else None)
    return objective.evaluate(stats, masks.get(name, plain), beta), stats


def test_every_registered_loss_has_a_formula_here():
    assert set(FORMULAS) == set(registry.names())


@pytest.mark.parametrize("name", sorted(FORMULAS))
@pytest.mark.parametrize(("seed", "beta"), [(0, 0.1), (1, 0.5), (2, 2.0)])
def test_the_loss_is_the_papers_formula(name, seed, beta):
    batch = random_batch(seed, pairs=3)
    output, _ = evaluated(name, batch, beta)
    chosen, rejected = ([Response(batch, row) for row in rows] for rows in ((0, 1, 2), (3, 4, 5)))
    want = [FORMULAS[name](beta, c, r) for c, r in zip(chosen, rejected)]
    torch.testing.assert_close(output.losses, torch.tensor(want, dtype=torch.float64), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_chosen_minus_rejected_reward_is_the_logit_and_equal_models_have_none(name):
    batch = random_batch(5)
    output, _ = evaluated(name, batch, 0.7)
    torch.testing.assert_close(output.chosen_rewards - output.rejected_rewards, output.logits)
    assert output.losses.requires_grad is False
    equal, _ = evaluated(name, batch._replace(policy=batch.reference), 0.7)
    if name != "simpo":
        assert not equal.logits.any()


@pytest.mark.parametrize("name", ["tdpo2", "dpop", "cdpo"])
def test_options_change_the_loss_as_their_paper_says(name):
    batch = random_batch(3, pairs=4)  # some chosen responses are less likely than before
    values = {
        "tdpo2": ("alpha", 0.0, "dpo"),
        "dpop": ("penalty", 0.0, "dpo"),
        "cdpo": ("label_smoothing", 0.0, "dpo"),
    }
    option, off, same = values[name]
    torch.testing.assert_close(
        evaluated(name, batch, 0.5, **{option: off})[0].losses, evaluated(same, batch, 0.5)[0].losses
    )
    assert not torch.allclose(evaluated(name, batch, 0.5)[0].losses, evaluated(same, batch, 0.5)[0].losses)


def test_tdpo2_stops_the_gradient_through_the_chosen_responses_kl():
    batch = random_batch(4)
    policy = batch.policy.clone().requires_grad_()
    output, stats = evaluated("tdpo2", batch._replace(policy=policy), 0.5, alpha=0.8)
    (got,) = torch.autograd.grad(output.losses.sum(), policy, retain_graph=True)
    # By hand: dz = d ratio_c - d ratio_r - alpha d KL_r, with no term of KL_c.
    ratio = (stats.policy_logps - stats.reference_logps).sum(-1)
    kl = stats.token_kl.sum(-1)
    z = 0.5 * (ratio[:2] - ratio[2:] + 0.8 * (kl[:2] - kl[2:]))
    slope = -torch.sigmoid(-z.detach()) * 0.5
    by_hand = (slope * (ratio[:2] - ratio[2:] - 0.8 * kl[2:])).sum()
    (want,) = torch.autograd.grad(by_hand, policy)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("name", "flags"), [("dpo", {}), ("ipo", {"ipo": True}), ("cdpo", {"label_smoothing": 0.1})]
)
def test_upstreams_loss_gives_the_same_numbers_on_the_same_batch(name, flags):
    standin.import_openrlhf()
    from openrlhf.models import DPOLoss

    batch = random_batch(6, pairs=4)
    output, stats = evaluated(name, batch, 0.3)
    sums = [*stats.policy_logps.sum(-1).chunk(2), *stats.reference_logps.sum(-1).chunk(2)]
    want, chosen, rejected = DPOLoss(0.3, **flags)(*sums)
    torch.testing.assert_close(output.losses.mean(), want)
    torch.testing.assert_close(output.chosen_rewards, chosen)
    torch.testing.assert_close(output.rejected_rewards, rejected)


@pytest.mark.parametrize("name", sorted(set(FORMULAS) - {"simpo"}))
@pytest.mark.parametrize("weight", ["uniform", "complement"])
def test_the_anchor_adds_the_mean_token_kl_over_both_responses(name, weight):
    batch = random_batch(8, pairs=2)
    plain, _ = evaluated(name, batch, 0.4)
    anchored, _ = evaluated(name, batch, 0.4, anchor=0.7, anchor_weight=weight)
    masked = name in ("sparsepo", "mapo")
    want = []
    for pair in range(2):
        sides = [Response(batch, pair), Response(batch, 2 + pair)]
        total = 0.0
        for side in sides:
            for kl, mask in zip(side.kl, side.reward_mask):
                weighted = max(0.0, 1 - (mask if masked else 1.0))
                total += kl * (weighted if weight == "complement" else 1.0)
        want.append(0.7 * total / sum(len(side.kl) for side in sides))
    torch.testing.assert_close(anchored.losses - plain.losses, torch.tensor(want, dtype=torch.float64))
    assert torch.equal(anchored.logits, plain.logits)


def test_the_anchor_gives_masks_no_gradient():
    batch = random_batch(9)
    mask = batch.reward_mask.clone().requires_grad_()
    changed = batch._replace(reward_mask=mask)
    plain, _ = evaluated("sparsepo", changed, 0.4)
    anchored, _ = evaluated("sparsepo", changed, 0.4, anchor=2.0, anchor_weight="complement")
    (one,), (other,) = (torch.autograd.grad(output.losses.sum(), mask) for output in (plain, anchored))
    torch.testing.assert_close(one, other)
    assert one.any()
