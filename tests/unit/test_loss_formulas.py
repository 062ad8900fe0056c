"""Every loss against its formula, written out token by token in Python floats, and against upstream's."""

from __future__ import annotations

import math

import pytest
import torch
from batches import Extras, random_batch

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
        self.score, self.states = [], []
        extras = Extras(batch)
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
            score = extras.token_weights[row, position - 1].item()
            self.score.append(None if math.isnan(score) else score)
            self.states.append(extras.policy_states[row, position - 1].tolist())

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

    def weighted_ratio(self, weights):
        return sum(w * (p - q) for w, p, q in zip(weights, self.policy, self.reference))


def decayed(b, c, r):
    return [[0.98 ** (t + 1) for t in range(len(side.policy))] for side in (c, r)]


def desensitised(b, c, r):
    shorter = min(len(c.policy), len(r.policy))
    return [[1.0 if t < shorter else 0.5 for t in range(len(side.policy))] for side in (c, r)]


def unconfident(b, c, r):
    kept = []
    for side in (c, r):
        mean = sum(math.exp(p) for p in side.policy) / len(side.policy)
        kept.append([float(math.exp(p) < mean) for p in side.policy])
    return kept


def scored(chosen, rejected):
    """Weights of the data's scores by one function for each side; 1 where there is none."""

    def weights(b, c, r):
        sides = (c, chosen), (r, rejected)
        return [[1.0 if s is None else f(b, s) for s in side.score] for side, f in sides]

    return weights


def best_and_worst(b, c, r):
    kept = []
    for side, sign in ((c, 1), (r, -1)):
        scores = [sign * (s or 0.0) for s in side.score]
        best = sorted(range(len(scores)), key=lambda t: (-scores[t], t))
        kept.append([float(t in best[: math.ceil(0.3 * len(scores))]) for t in range(len(scores))])
    return kept


def transported(b, c, r):
    """Sinkhorn's algorithm as in textbooks, run long enough: u = (1 / K v)^f, v = (1 / K^T u)^f."""
    cost = [[math.dist(x, y) for y in r.states] for x in c.states]
    largest = max(1.0, *(max(row) for row in cost))
    kernel = [[math.exp(-value / largest) for value in row] for row in cost]
    u, v = [1.0] * len(kernel), [1.0] * len(kernel[0])
    for _ in range(200):
        u = [sum(k * y for k, y in zip(row, v)) ** (-0.2 / 1.2) for row in kernel]
        v = [sum(kernel[i][j] * u[i] for i in range(len(u))) ** (-0.2 / 1.2) for j in range(len(v))]
    plan = [[u[i] * kernel[i][j] * v[j] for j in range(len(v))] for i in range(len(u))]
    scale = sum(map(sum, plan)) / min(len(u), len(v))
    return [[sum(row) / scale for row in plan], [sum(row) / scale for row in zip(*plan)]]


# What a loss weighs the tokens of chosen and rejected response by; each written from its paper.
WEIGHTS = {
    "d2po": decayed,
    "lddpo": desensitised,
    "confpo": unconfident,
    "tisdpo": scored(
        lambda b, s: math.exp(min(max(s, -0.5), 1.5)), lambda b, s: math.exp(-min(max(s, -0.5), 1.5))
    ),
    "tgdpo": scored(lambda b, s: 1 + 0.5 * b * s, lambda b, s: 1 - 0.5 * b * s),
    "criticaldpo": scored(lambda b, s: s, lambda b, s: 1 - s),
    "sepo": best_and_worst,
    "otpo": transported,
}
REFERENCE_FREE = {"simpo", "confpo", "sepo"}


def weighted(name):
    """DPO with the weights of a method."""

    def loss(b, c, r):
        chosen, rejected = WEIGHTS[name](b, c, r)
        return -log_sigmoid(b * (c.weighted_ratio(chosen) - r.weighted_ratio(rejected)))

    return loss


def selected_means(b, c, r, kept, gamma):
    """SimPO over selected tokens; 0 where a side has none."""
    if not all(sum(side) for side in kept):
        return 0.0
    means = [sum(p for p, k in zip(x.policy, side) if k) / sum(side) for x, side in zip((c, r), kept)]
    return -log_sigmoid(b * means[0] - b * means[1] - gamma)


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
    **{name: weighted(name) for name in WEIGHTS},
    "confpo": lambda b, c, r: selected_means(b, c, r, unconfident(b, c, r), 1.6),
    "sepo": lambda b, c, r: selected_means(b, c, r, best_and_worst(b, c, r), 0.0),
}


def evaluated(name, batch, beta, **given):
    """Output and statistics; without an anchor where none is given."""
    loss = registry.get(name)
    objective = ConfiguredLoss(loss, loss.options.build({"anchor": 0.0, **given}), SHAPE)
    stats = token_stats(batch.policy, batch.reference, batch.labels, with_kl=True)
    stats = stats._replace(**vars(Extras(batch)))
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
    if name not in REFERENCE_FREE:
        assert not equal.logits.any()


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_the_weights_are_reported_and_are_the_papers(name):
    batch = random_batch(7, pairs=3)
    output, stats = evaluated(name, batch, 0.7)
    assert not output.weights.requires_grad
    assert not output.weights[~stats.response_mask].any()
    for pair in range(3):
        want = WEIGHTS[name](0.7, Response(batch, pair), Response(batch, 3 + pair))
        for row, weights in zip((pair, 3 + pair), want):
            got = output.weights[row][stats.response_mask[row]].tolist()
            assert got == pytest.approx(weights, abs=1e-12)


def released_tgdpo(beta, alpha, stats):
    """The expression of the released trainer: log-ratios of policy and guide, sums inside one sigmoid."""
    ratio, guide = stats.policy_logps - stats.reference_logps, stats.token_weights.nan_to_num(nan=0.0)
    (chosen, rejected), (guide_chosen, guide_rejected) = ratio.chunk(2), guide.chunk(2)
    left = (beta * (1 + alpha * beta * guide_chosen) * chosen).sum(-1)
    right = (beta * (1 - alpha * beta * guide_rejected) * rejected).sum(-1)
    return -torch.nn.functional.logsigmoid(left - right)


def released_d2po(beta, gamma, stats):
    """Log-probabilities weighed by gamma to the running number of response tokens, then plain DPO."""
    mask = stats.response_mask
    decay = torch.pow(gamma, torch.cumsum(mask, dim=1).double()) * mask
    policy, reference = (
        (logps * decay).sum(-1).chunk(2) for logps in (stats.policy_logps, stats.reference_logps)
    )
    margin = (policy[0] - policy[1]) - (reference[0] - reference[1])
    return -torch.nn.functional.logsigmoid(beta * margin)


def released_lddpo(beta, alpha, stats):
    """TRL's split of a response into what both have the length for, and the tail."""
    mask = stats.response_mask
    lengths = mask.sum(1).long()
    shared = torch.minimum(*lengths.chunk(2)).repeat(2)
    place = mask.cumsum(1)
    head, tail = (place > 0) & (place <= shared[:, None]) & mask, (place > shared[:, None]) & mask
    sums = [
        (x * head).sum(1) + alpha * (x * tail).sum(1) for x in (stats.policy_logps, stats.reference_logps)
    ]
    (c, r), (rc, rr) = (value.chunk(2) for value in sums)
    return -torch.nn.functional.logsigmoid(beta * ((c - rc) - (r - rr)))


@pytest.mark.parametrize(
    ("name", "released", "value"),
    [("tgdpo", released_tgdpo, 0.5), ("d2po", released_d2po, 0.98), ("lddpo", released_lddpo, 0.5)],
)
def test_the_released_expressions_give_the_same_numbers(name, released, value):
    output, stats = evaluated(name, random_batch(11, pairs=4, seq=12), 0.3)
    torch.testing.assert_close(output.losses, released(0.3, value, stats), rtol=1e-12, atol=1e-12)


def test_critical_tokens_may_be_weighed_on_the_rejected_side_only():
    output, stats = evaluated("criticaldpo", random_batch(2), 0.3, sides="rejected")
    assert output.weights[:2][stats.response_mask[:2]].eq(1).all()
    assert not output.weights[2:][stats.response_mask[2:]].eq(1).all()


def test_weights_of_the_data_can_be_taken_as_they_are():
    output, stats = evaluated("tisdpo", random_batch(2), 0.3, transform="none")
    want = stats.token_weights.nan_to_num(nan=1.0)
    assert torch.equal(output.weights, torch.where(stats.response_mask, want, 0.0))


@pytest.mark.parametrize("name", ["tdpo2", "dpop", "cdpo", "d2po", "lddpo", "tgdpo"])
def test_options_change_the_loss_as_their_paper_says(name):
    batch = random_batch(3, pairs=4)  # some chosen responses are less likely than before
    values = {
        "tdpo2": ("alpha", 0.0, "dpo"),
        "dpop": ("penalty", 0.0, "dpo"),
        "cdpo": ("label_smoothing", 0.0, "dpo"),
        "d2po": ("gamma", 1.0, "dpo"),
        "lddpo": ("alpha", 1.0, "dpo"),
        "tgdpo": ("alpha", 0.0, "dpo"),
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
        weights = [side.reward_mask if masked else [1.0] * len(side.kl) for side in sides]
        if name in WEIGHTS:
            weights = WEIGHTS[name](0.4, *sides)
        for side, row in zip(sides, weights):
            for kl, mask in zip(side.kl, row):
                total += kl * (max(0.0, 1 - mask) if weight == "complement" else 1.0)
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
