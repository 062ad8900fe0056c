"""Logits of -inf, nan and huge size: the exact KL, or nan where there is none, in every way we compute it."""

from __future__ import annotations

import math
from contextlib import nullcontext

import naive
import pytest
import torch

from sparsepo_plugin.forward.statistics import HeadWeights, ReferenceRows, fused_statistics, rows, shapes
from sparsepo_plugin.forward.statistics import fused as module
from sparsepo_plugin.forward.statistics.reference import token_stats

INFINITE = float("inf")
# Token ids with a logit of -inf in policy and reference.
FORBIDDEN = {
    "one in both": ((3,), (3,)),
    "some in both": ((3, 260, 299), (3, 260, 299)),
    "in the reference alone": ((), (3, 4)),
    "more in the reference": ((5,), (5, 6)),
    "a whole slice": (tuple(range(64)), tuple(range(64))),
}
WAYS = ["kept", "slices", "rows", "from logits"]


def statistics(way, given, monkeypatch):
    """(log pi(y), log ref(y), KL) of biases that hold the odd entries."""
    if way == "from logits":
        policy, reference = (
            naive.logits(hidden, weight, bias, naive.PLAIN)[None]
            for hidden, weight, bias in (given[:3], given[4:])
        )
        policy, reference = (torch.cat([logits, logits[:, :1]], 1) for logits in (policy, reference))
        labels = torch.cat([torch.tensor([-100]), given.targets])[None]
        found = token_stats(policy, reference, labels)
        return found.policy_logps[0], found.reference_logps[0], found.token_kl[0]
    monkeypatch.setattr(module, "KEEP", module.KEEP if way == "kept" else 0)
    monkeypatch.setattr(module, "GUESS", -1.0 if way == "rows" else module.GUESS)
    monkeypatch.setattr(shapes, "TILE", {"cpu": 450})
    return fused_statistics(given.hidden, given.head(), given.targets, given.reference(), with_kl=True)


def odd(policy=(), reference=(), value=-INFINITE, dtype=torch.float64):
    """A case whose models give some token ids a logit of ``value``; no target is among them."""
    given = naive.case(7, 300, 8, dtype=dtype)
    targets = given.targets.clamp(min=20, max=250)
    biases = [given.bias.detach().clone(), given.reference_bias.clone()]
    for bias, ids in zip(biases, (policy, reference)):
        bias[list(ids)] = value
    return given._replace(targets=targets, bias=biases[0], reference_bias=biases[1])


def exact(given):
    """KL(reference || policy) with 0 log 0 = 0, in float64."""
    wide = naive.in_float64(given)
    log_p, log_q = (
        naive.logits(hidden, weight, bias, naive.PLAIN).log_softmax(-1)
        for hidden, weight, bias in (wide[:3], wide[4:])
    )
    q = log_q.exp()
    return torch.where(q == 0, 0.0, q * (log_q - log_p)).sum(-1).detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("forbidden", FORBIDDEN)
def test_entries_no_model_allows_leave_the_kl_exact(forbidden, way, dtype, monkeypatch):
    policy, reference = FORBIDDEN[forbidden]
    given = odd(policy, reference, dtype=dtype)
    if forbidden == "a whole slice":
        given = given._replace(targets=given.targets.clamp(min=64))
    found, want = statistics(way, given, monkeypatch), exact(given)
    assert torch.isfinite(want).all()
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(found[2].double(), want, rtol=tolerance, atol=tolerance)
    assert torch.isfinite(found[0]).all()
    (gradient,) = torch.autograd.grad((found[0] + found[2]).sum(), [given.hidden])
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("way", WAYS)
def test_what_the_policy_alone_forbids_costs_an_infinite_kl(way, monkeypatch):
    given = odd(policy=(3,), dtype=torch.float32)
    assert statistics(way, given, monkeypatch)[2].tolist() == [INFINITE] * 7


@pytest.mark.parametrize("side", ["policy", "reference"])
@pytest.mark.parametrize("way", WAYS)
def test_nan_stays_nan(way, side, monkeypatch):
    given = odd(**{side: (3,)}, value=math.nan, dtype=torch.float32)
    found = statistics(way, given, monkeypatch)
    assert found[2].isnan().all()
    assert found[0 if side == "policy" else 1].isnan().all()


def test_plain_rows_on_a_device_without_triton_are_exact_too():
    given = odd((3, 4), (3, 4), dtype=torch.float32)
    z, r = (
        naive.logits(hidden, weight, bias, naive.PLAIN).detach()
        for hidden, weight, bias in (given[:3], given[4:])
    )
    found = rows.statistics(rows.Tile(z, r), given.targets, True)
    torch.testing.assert_close(found.kl.double(), exact(given), rtol=2e-5, atol=2e-5)


def test_a_far_policy_beside_an_entry_of_minus_infinity_keeps_its_finite_kl(monkeypatch):
    # Probabilities that underflow are no zeros: q (log q - log p) is what it is.
    vocab = 200
    z, r = torch.zeros(1, vocab), torch.zeros(1, vocab)
    z[0, 7], r[0, 7] = -150.0, 3.0
    z[0, 9] = r[0, 9] = -INFINITE
    z[0, 11], r[0, 11] = 1.0, -90.0
    eye = torch.ones(1, 1)
    head = [HeadWeights(logits.t().clone().requires_grad_(), None) for logits in (z, r)]
    monkeypatch.setattr(shapes, "TILE", {"cpu": 1})
    reference = ReferenceRows(eye, lambda: nullcontext(HeadWeights(head[1].weight.detach(), None)))
    found = fused_statistics(eye, head[0], torch.tensor([1]), reference, with_kl=True)
    log_p, log_q = z.double().log_softmax(-1), r.double().log_softmax(-1)
    want = torch.where(log_q.exp() == 0, 0.0, log_q.exp() * (log_q - log_p)).sum()
    torch.testing.assert_close(found.token_kl.double()[0].detach(), want, rtol=1e-5, atol=0)
