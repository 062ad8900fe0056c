"""What must hold for any logits, labels and masks."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext

import pytest
import torch
from batches import BETA, Batch, logit_of, random_batch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sparsepo_plugin.forward.statistics import reference as token_stats_module
from sparsepo_plugin.forward.statistics.kl import kl_terms
from sparsepo_plugin.forward.statistics.reference import token_stats
from sparsepo_plugin.losses.dpo import dpo
from sparsepo_plugin.losses.sparsepo import SparsePOOptions, sparsepo
from sparsepo_plugin.objective import mask_l1
from sparsepo_plugin.options import LossOptions
from sparsepo_plugin.types import Masks

batches = st.builds(
    random_batch,
    st.integers(0, 10_000),
    pairs=st.integers(1, 4),
    seq=st.integers(2, 9),
    vocab=st.integers(2, 17),
    scale=st.sampled_from([0.1, 1.0, 8.0]),
)
close = torch.testing.assert_close


def ones(batch: Batch) -> torch.Tensor:
    return torch.ones_like(batch.reward_mask)


def naive(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-ratios, KL(reference || policy) and response mask, [rows, seq - 1], from the definitions."""
    log_p, log_q = (torch.log_softmax(value[:, :-1], -1) for value in (batch.policy, batch.reference))
    labels = batch.labels[:, 1:]
    response = labels != -100
    index = labels.clamp(min=0)[..., None]
    ratio = (log_p - log_q).gather(-1, index).squeeze(-1)
    return ratio, (log_q.exp() * (log_q - log_p)).sum(-1), response


@given(batches)
def test_masks_of_ones_give_tdpo_version_1(batch):
    ratio, kl, response = naive(batch)
    chosen_ratio, rejected_ratio = (ratio * response).sum(-1).chunk(2)
    chosen_kl, rejected_kl = (kl * response).sum(-1).chunk(2)
    # arXiv 2404.11999, version 1: -log sigmoid(u - delta), delta = beta (SeqKL(rejected) - SeqKL(chosen)).
    u = BETA * (chosen_ratio - rejected_ratio)
    delta = BETA * (rejected_kl - chosen_kl)
    close(
        batch.loss(Masks(ones(batch), ones(batch))).losses,
        -functional.logsigmoid(u - delta),
        atol=1e-11,
        rtol=1e-11,
    )


@given(batches)
def test_reward_mask_of_ones_without_kl_mask_is_dpo(batch):
    ratio, _, response = naive(batch)
    chosen, rejected = (ratio * response).sum(-1).chunk(2)
    want = -functional.logsigmoid(BETA * (chosen - rejected))
    without_kl = Masks(ones(batch), None)
    close(batch.loss(without_kl).losses, want, atol=1e-11, rtol=1e-11)
    close(dpo(batch.stats(), without_kl, BETA, LossOptions()).losses, want, atol=1e-11, rtol=1e-11)
    close(batch.loss(Masks(ones(batch), 0 * ones(batch))).losses, want, atol=1e-11, rtol=1e-11)


@given(batches)
def test_policy_equal_to_reference_gives_ln_2_for_any_masks(batch):
    output = batch._replace(policy=batch.reference.clone()).loss()
    close(output.losses, torch.full_like(output.losses, math.log(2)), atol=1e-15, rtol=0)
    assert not output.logits.any()


@given(batches)
def test_swapping_chosen_and_rejected_negates_the_logit(batch):
    swapped = batch.map(lambda value: torch.cat(value.chunk(2)[::-1]))
    close(swapped.loss().logits, -batch.loss().logits, atol=0, rtol=0)
    close(swapped.loss().chosen_rewards, batch.loss().rejected_rewards, atol=0, rtol=0)


@given(batches, st.integers(1, 4))
def test_padding_changes_nothing(batch, extra):
    def pad(value: torch.Tensor) -> torch.Tensor:
        fill = -100 if value.dtype == torch.int64 else 7.5
        widths = (0, 0, 0, extra) if value.ndim == 3 else (0, extra)
        return functional.pad(value, widths, value=fill)

    penalties = {"reward_l1": 0.1, "kl_l1": 0.2}
    padded = batch.map(pad).loss(**penalties)
    for got, want in zip(padded[:4], batch.loss(**penalties)[:4]):
        close(got, want, atol=1e-13, rtol=1e-13)


@given(batches, st.randoms(use_true_random=False))
def test_batch_order_changes_nothing(batch, random):
    pairs = len(batch.labels) // 2
    order = torch.tensor(random.sample(range(pairs), pairs))
    rows = torch.cat([order, order + pairs])
    for got, want in zip(batch.map(lambda v: v[rows]).loss(reward_l1=0.1)[:4], batch.loss(reward_l1=0.1)):
        close(got, want[order], atol=1e-13, rtol=1e-13)


@given(batches, st.integers(0, 1000))
def test_a_mask_of_zero_on_a_token_equals_that_token_not_being_in_the_response(batch, seed):
    keep = torch.rand(batch.reward_mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    masked = Masks(batch.reward_mask * keep, batch.kl_mask * keep)
    labels = batch.labels.clone()
    labels[:, 1:][~keep] = -100
    sliced = batch._replace(labels=labels)
    for got, want in zip(batch.loss(masked, reward_l1=0.1, kl_l1=0.2), sliced.loss(reward_l1=0.1, kl_l1=0.2)):
        close(got, want, atol=1e-13, rtol=1e-13)


@given(batches)
def test_the_reward_margin_is_the_logit_and_the_loss_follows_it(batch):
    output = batch.loss()
    close(output.chosen_rewards - output.rejected_rewards, output.logits, atol=1e-12, rtol=1e-12)
    # torch cuts softplus off at 20 by default, which is 1e-10 away.
    close(output.losses, functional.softplus(-output.logits, threshold=40), atol=1e-14, rtol=1e-12)
    assert output.weights is None
    assert not any(value.requires_grad for value in output[1:4])


@given(batches)
def test_penalties_add_the_l1_norms_and_a_common_mask_halves_them(batch):
    stats, common = batch.stats(), Masks(batch.reward_mask, batch.reward_mask)
    base = batch.loss(common).losses
    l1 = mask_l1(batch.reward_mask, stats.response_mask)
    want = (batch.reward_mask.abs() * stats.response_mask).sum(-1).view(2, -1).sum(0)
    close(l1, want, atol=1e-13, rtol=1e-13)
    for masks, factor in (({"masks": "common"}, 0.5), ({"masks": "independent"}, 1.0)):
        close(batch.loss(common, reward_l1=0.3, kl_l1=0.1, **masks).losses - base, factor * 0.4 * l1)
    # A term that is not masked has weight 1 everywhere: nothing to penalise.
    close(batch.loss(common, mask_on="kl", reward_l1=0.3).losses, base)
    close(batch.loss(common, mask_on="reward", kl_l1=0.3).losses, base)


@given(batches, st.sampled_from([torch.float32, torch.float64]))
def test_token_kl_is_never_negative_and_zero_outside_the_response(batch, dtype):
    stats = batch._replace(policy=batch.policy.to(dtype), reference=batch.reference.to(dtype)).stats()
    assert (stats.token_kl >= 0).all()
    for value in (stats.policy_logps, stats.reference_logps, stats.token_kl):
        assert not value[~stats.response_mask].any()
    assert (stats.policy_logps <= 0).all()


@given(st.integers(0, 10_000), st.floats(-7, 0), st.integers(2, 40))
def test_token_kl_of_tiny_differences_is_never_negative_in_float32(seed, exponent, vocab):
    rng = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(8, 3, vocab, generator=rng)
    other = logits + 10**exponent * torch.randn(8, 3, vocab, generator=rng)
    assert (token_stats(logits, other, torch.zeros(8, 3, dtype=torch.int64)).token_kl >= 0).all()


@pytest.mark.parametrize("zero", ["both", "reward_mask", "kl_mask"])
@given(batches)
def test_gradients_are_finite_for_all_zero_masks(zero, batch):
    names = ("reward_mask", "kl_mask") if zero == "both" else (zero,)
    batch = batch._replace(**{name: torch.zeros_like(batch.reward_mask) for name in names})
    check_gradients_finite(batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(st.integers(0, 10_000), st.integers(2, 8))
def test_gradients_are_finite_for_one_pair_of_one_token_responses(dtype, seed, seq):
    batch = random_batch(seed, pairs=1, seq=seq, dtype=dtype)
    labels = torch.full_like(batch.labels, -100)
    labels[:, seed % (seq - 1) + 1] = 3
    batch = batch._replace(labels=labels)
    assert batch.stats().response_mask.sum(-1).tolist() == [1, 1]
    check_gradients_finite(batch)


def check_gradients_finite(batch: Batch) -> None:
    names = ("policy", "reward_mask", "kl_mask")
    batch = batch._replace(**{name: getattr(batch, name).clone().requires_grad_() for name in names})
    loss = batch.loss(reward_l1=0.1, kl_l1=0.1).losses.mean()
    loss.backward()
    assert torch.isfinite(loss)
    for name in names:
        assert torch.isfinite(getattr(batch, name).grad).all(), name
    outside = ~batch.stats().response_mask
    assert not batch.reward_mask.grad[outside].any()
    assert not batch.policy.grad[:, :-1][outside].any()
    assert not batch.policy.grad[:, -1].any()


def test_a_mask_value_outside_the_response_does_not_matter_even_if_not_finite():
    batch = random_batch(3)
    outside = ~batch.stats().response_mask
    assert outside.any()
    broken = batch._replace(
        **{n: getattr(batch, n).masked_fill(outside, math.nan) for n in ("reward_mask", "kl_mask")}
    )
    for got, want in zip(broken.loss(reward_l1=0.1, kl_l1=0.1), batch.loss(reward_l1=0.1, kl_l1=0.1)):
        close(got, want, atol=0, rtol=0)


@given(batches)
def test_no_gradient_reaches_the_reference(batch):
    batch = batch._replace(
        policy=batch.policy.requires_grad_(), reference=batch.reference.clone().requires_grad_()
    )
    batch.loss().losses.mean().backward()
    assert batch.reference.grad is None
    assert batch.policy.grad is not None
    assert not batch.stats().reference_logps.requires_grad


@given(st.integers(0, 10_000))
def test_gradcheck_of_token_stats(seed):
    batch = random_batch(seed, pairs=1, seq=4, vocab=5)
    labels = torch.tensor([[-100, 2, 0, 4], [-100, -100, 1, 1]])

    def outputs(policy: torch.Tensor) -> tuple[torch.Tensor, ...]:
        stats = token_stats(policy, batch.reference, labels)
        return stats.policy_logps, stats.token_kl

    assert torch.autograd.gradcheck(outputs, (batch.policy.requires_grad_(),), atol=1e-6)


# ---------------------------------------------------------------- accuracy of the KL against 60 digits


def exact_log_softmax(logits: list[float]) -> list[Decimal | None]:
    """Log-probabilities with 60 digits; None for a logit of -inf."""
    values = [None if value == -math.inf else Decimal(value) for value in logits]
    top = max(value for value in values if value is not None)
    total = sum(((value - top).exp() for value in values if value is not None), Decimal(0))
    return [None if value is None else value - top - total.ln() for value in values]


def exact_kl(reference: list[float], policy: list[float]) -> float:
    getcontext().prec = 60
    total = Decimal(0)
    for log_q, log_p in zip(exact_log_softmax(reference), exact_log_softmax(policy)):
        if log_q is None:
            continue
        if log_p is None:
            return math.inf
        total += log_q.exp() * (log_q - log_p)
    return float(total)


def kl_of(reference: list[float], policy: list[float], dtype: torch.dtype) -> float:
    stack = torch.tensor([[policy] * 2, [reference] * 2], dtype=dtype)
    labels = torch.tensor([[-100, 0]])
    return token_stats(stack[:1], stack[1:], labels).token_kl.item()


extreme = st.sampled_from([0.0, 1.0, -3.0, 200.0, -200.0, 1e4, -1e4, 88.0, -104.0, 0.015625])


@given(st.lists(st.tuples(extreme, extreme), min_size=2, max_size=8))
def test_kl_is_finite_and_accurate_at_extreme_logits(pairs):
    reference, policy = ([float(value) for value in side] for side in zip(*pairs))
    want = exact_kl(reference, policy)
    assert kl_of(reference, policy, torch.float64) == pytest.approx(want, rel=1e-10, abs=1e-12)
    assert kl_of(reference, policy, torch.float32) == pytest.approx(
        want, rel=2e-3 if want > 1e3 else 1e-5, abs=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [200.0, -200.0, 700.0, -700.0])
def test_kl_at_log_ratios_of_200_and_more(gap, dtype):
    reference, policy = [0.0, 0.0, 3.0], [0.0, gap, 3.0]
    want = exact_kl(reference, policy)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert kl_of(reference, policy, dtype) == pytest.approx(want, rel=tolerance)
    assert kl_of(policy, reference, dtype) == pytest.approx(exact_kl(policy, reference), rel=tolerance)


@given(st.lists(st.tuples(extreme, extreme, st.booleans()), min_size=2, max_size=6))
def test_tokens_that_neither_model_can_say_contribute_nothing(triples):
    gone = [value[2] for value in triples]
    gone[0] = False
    reference, policy = (
        [-math.inf if g else v for v, g in zip(side, gone)] for side in list(zip(*triples))[:2]
    )
    kept = [[v for v in side if v != -math.inf] for side in (reference, policy)]
    for dtype in (torch.float32, torch.float64):
        assert kl_of(reference, policy, dtype) == pytest.approx(kl_of(*kept, dtype), rel=1e-6, abs=1e-9)


def test_a_token_that_only_one_model_can_say():
    impossible = -math.inf
    assert kl_of([0.0, 1.0], [0.0, impossible], torch.float64) == math.inf
    assert kl_of([0.0, impossible], [0.0, 1.0], torch.float64) == pytest.approx(
        math.log(1 + math.e), rel=1e-14
    )
    assert exact_kl([0.0, impossible], [0.0, 1.0]) == pytest.approx(math.log(1 + math.e), rel=1e-14)


def test_gradients_are_finite_where_both_models_exclude_tokens():
    batch = random_batch(5)
    batch.policy[..., :3] = batch.reference[..., :3] = -math.inf
    batch = batch._replace(labels=torch.where(batch.labels >= 0, batch.labels.clamp(min=3), batch.labels))
    policy = batch.policy.requires_grad_()
    batch._replace(policy=policy).loss().losses.mean().backward()
    assert torch.isfinite(policy.grad).all()
    assert not policy.grad[..., :3].any()


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 3e-6), (torch.float64, 6e-15)])
@pytest.mark.parametrize("size", [1e-1, 1e-2, 1e-3, 1e-4])
def test_kl_of_nearly_equal_models_keeps_its_digits(size, dtype, unit):
    rng = torch.Generator().manual_seed(1)
    reference = torch.randn(50, generator=rng, dtype=torch.float64).to(dtype)
    policy = reference + (size * torch.randn(50, generator=rng, dtype=torch.float64)).to(dtype)
    want = exact_kl(reference.tolist(), policy.tolist())
    # Rounding of the log-probabilities enters relative to the difference itself.
    assert kl_of(reference.tolist(), policy.tolist(), dtype) == pytest.approx(want, rel=unit / size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_terms_agree_across_their_branches(dtype):
    """The series, expm1 and large-x forms meet without a step."""
    small = (24 * torch.finfo(dtype).eps) ** (1 / 3)
    log_q = torch.tensor([math.log(0.2)], dtype=torch.float64)
    for border in (small, -small, 1.0):
        for x in (border * 0.999, border * 1.001):
            exact = 0.2 * float(Decimal(x).exp() - 1 - Decimal(x))
            got = kl_terms((log_q + x).to(dtype), log_q.to(dtype)).item()
            # x itself is only known to an ulp of log q: its error enters twice.
            slack = 8 * torch.finfo(dtype).eps * abs(log_q.item()) / abs(x) + 30 * torch.finfo(
                dtype
            ).eps / abs(x)
            assert got == pytest.approx(exact, rel=slack)


# ---------------------------------------------------------------- twins


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 1e-2)]
)
@pytest.mark.parametrize(("pairs", "seq", "vocab"), [(1, 2, 2), (1, 5, 3), (3, 9, 17), (2, 13, 257)])
def test_loss_and_every_gradient_equal_those_of_the_naive_implementation(pairs, seq, vocab, dtype, tolerance):
    source = random_batch(11, pairs=pairs, seq=seq, vocab=vocab, scale=2.0)
    logits = source._replace(policy=source.policy.to(dtype), reference=source.reference.to(dtype))
    work = torch.promote_types(torch.float32, dtype)

    def leaves(batch: Batch, kind: torch.dtype) -> Batch:
        names = ("policy", "reward_mask", "kl_mask")
        kinds = {"policy": kind, "reward_mask": work, "kl_mask": work}
        return batch._replace(**{n: getattr(batch, n).detach().to(kinds[n]).requires_grad_() for n in names})

    ours, theirs = leaves(logits, dtype), leaves(logits._replace(reference=logits.reference.to(work)), work)
    loss = ours.loss(reward_l1=0.05, kl_l1=0.02).losses.mean()
    ratio, kl, response = naive(theirs)
    score = ((theirs.reward_mask * ratio + theirs.kl_mask * kl) * response).sum(-1)
    chosen, rejected = score.chunk(2)
    l1 = ((0.05 * theirs.reward_mask.abs() + 0.02 * theirs.kl_mask.abs()) * response).sum() / pairs
    want = -functional.logsigmoid(BETA * (chosen - rejected)).mean() + l1
    loss.backward()
    want.backward()
    close(loss, want, atol=min(tolerance, 1e-5), rtol=min(tolerance, 1e-5))
    assert loss.dtype == work
    assert ours.policy.grad.dtype == dtype
    for name in ("policy", "reward_mask", "kl_mask"):
        got, expected = getattr(ours, name).grad.to(work), getattr(theirs, name).grad
        scale = max(1e-6, expected.abs().max().item())
        close(got, expected, atol=tolerance * scale, rtol=tolerance)


@pytest.mark.parametrize("elements", [1, 30, 64, 1000])
def test_chunking_changes_nothing(monkeypatch, elements):
    results = []
    for size in (1 << 20, elements):
        monkeypatch.setattr(token_stats_module, "_CHUNK_ELEMENTS", {"cpu": size})
        batch = random_batch(2, pairs=3, seq=9, vocab=31)
        batch = batch._replace(policy=batch.policy.requires_grad_())
        stats = batch.stats()
        (stats.policy_logps.sum() + 2 * stats.token_kl.sum()).backward()
        results.append((stats.policy_logps, stats.reference_logps, stats.token_kl, batch.policy.grad))
    for one, many in zip(*results):
        close(one, many, atol=0, rtol=0)


def test_bfloat16_logits_are_computed_in_float32():
    batch = random_batch(4, dtype=torch.bfloat16)
    wide = batch._replace(policy=batch.policy.float(), reference=batch.reference.float())
    for got, want in zip(batch.stats()[:3], wide.stats()[:3]):
        assert got.dtype == torch.float32
        close(got, want, atol=0, rtol=0)


def test_token_stats_without_kl_or_reference_compute_only_what_is_asked():
    batch = random_batch(6)
    full = batch.stats()
    without_kl = token_stats(batch.policy, batch.reference, batch.labels, with_kl=False)
    assert without_kl.token_kl is None
    close(without_kl.reference_logps, full.reference_logps)
    alone = token_stats(batch.policy, None, batch.labels, with_kl=False)
    assert alone.reference_logps is None
    close(alone.policy_logps, full.policy_logps)


def test_wrong_shapes_are_refused_with_the_shapes_named():
    batch = random_batch(7)
    with pytest.raises(ValueError, match=r"\(4, 7, 11\) and \(4, 6\)"):
        token_stats(batch.policy, batch.reference, batch.labels[:, 1:])
    with pytest.raises(ValueError, match=r"reference_logits .*\(4, 7, 10\)"):
        token_stats(batch.policy, batch.reference[..., 1:], batch.labels)
    with pytest.raises(ValueError, match="with_kl needs reference_logits"):
        token_stats(batch.policy, None, batch.labels)
    stats = batch.stats()
    options = SparsePOOptions()
    with pytest.raises(ValueError, match=r"reward_mask .*\(4, 6\): got \(4, 5\)"):
        sparsepo(stats, Masks(batch.reward_mask[:, 1:], batch.kl_mask), BETA, options)
    with pytest.raises(ValueError, match="even number: got 3"):
        sparsepo(stats.rows(torch.arange(3)), Masks(batch.reward_mask[:3], batch.kl_mask[:3]), BETA, options)
    with pytest.raises(ValueError, match="kl_mask needs token_kl"):
        sparsepo(stats._replace(token_kl=None), Masks(batch.reward_mask, batch.kl_mask), BETA, options)
    with pytest.raises(ValueError, match="needs reference_logps"):
        dpo(stats._replace(reference_logps=None), Masks(batch.reward_mask, None), BETA, LossOptions())


@given(batches)
def test_the_logits_gradient_through_the_masks_is_the_tokens_own_value(batch):
    """d z / d m_u of a token is beta times its log-ratio (chosen) or minus it (rejected); 0 outside."""
    masks = Masks(batch.reward_mask.requires_grad_(), batch.kl_mask.requires_grad_())
    logit_of(batch, masks).sum().backward()
    ratio, kl, response = naive(batch)
    sign = torch.ones_like(ratio)
    sign[len(ratio) // 2 :] = -1
    close(masks.reward_mask.grad, BETA * sign * ratio * response, atol=1e-11, rtol=1e-9)
    close(masks.kl_mask.grad, BETA * sign * kl * response, atol=1e-11, rtol=1e-9)
