"""Compare the kernels, in Triton's interpreter, with plain torch in float64; exit with 1 on a difference."""

from __future__ import annotations

import itertools

import torch

from sparsepo_plugin.forward.statistics import LogitMap, rows, triton_rows
from sparsepo_plugin.forward.statistics.reference import statistics_at
from sparsepo_plugin.forward.statistics.rows import Tile

COUNT = 4


def close(found, expected, tolerance):
    assert (found is None) == (expected is None)
    if found is not None:
        torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


def main():
    generator = torch.Generator().manual_seed(0)
    for vocab, distance in itertools.product((37, 5000, 8192), (1e-3, 1.0, 60.0)):
        reference = torch.randn(COUNT, vocab, generator=generator) * 3
        policy = reference + distance * torch.randn(COUNT, vocab, generator=generator)
        targets = torch.randint(vocab, (COUNT,), generator=generator)
        targets[0] = vocab - 1
        for with_kl in (False, True):
            found = triton_rows.statistics(Tile(policy.clone(), reference.clone()), targets, with_kl)
            exact = rows.statistics(Tile(policy.double(), reference.double()), targets, with_kl)
            for value, want in zip(found[:4], exact[:4]):
                close(value, want, 1e-5)
            if with_kl:  # relative: a KL of 1e-6 has as many digits as one of 100
                torch.testing.assert_close(found.kl.double(), exact.kl, rtol=1e-4, atol=1e-10)
        alone = triton_rows.statistics(Tile(policy.clone(), None), targets, False)
        assert alone.reference_logps is None
        close(alone.logps, exact.logps, 1e-5)
        lse = exact.lse, exact.reference_lse
        for logit_map, with_kl, dtype in itertools.product(
            (LogitMap(), LogitMap(0.7, 500.0)), (False, True), (torch.float32, torch.bfloat16)
        ):
            grads = [torch.randn(COUNT, generator=generator) for _ in range(2)]
            given = [(*lse,), (*grads,)] if with_kl else [(lse[0], None), (grads[0], None)]
            low = [tuple(None if v is None else v.float() for v in part) for part in given]
            high = [tuple(None if v is None else v.double() for v in part) for part in given]
            tile = Tile(policy.clone(), reference.clone() if with_kl else None)
            found = triton_rows.slice_gradient(tile, low[0], targets, 5, low[1], logit_map, dtype)
            tile = Tile(policy.double(), reference.double() if with_kl else None)
            exact_gradient = rows.slice_gradient(tile, high[0], targets, 5, high[1], logit_map, torch.float64)
            assert found.dtype == dtype
            close(found, exact_gradient, 1e-5 if dtype == torch.float32 else 1e-2)


def check_memory_layouts():
    """Gradients as autograd expands them, targets and tiles that are parts of something larger."""
    generator = torch.Generator().manual_seed(1)
    policy, reference = (torch.randn(COUNT, 77, generator=generator) for _ in range(2))
    exact = rows.statistics(Tile(policy.double(), reference.double()), torch.arange(COUNT), True)
    targets = torch.stack([torch.arange(COUNT), torch.full((COUNT,), 70)], 1)[:, 0]
    strided = [torch.stack([logits, logits], 2)[:, :, 0] for logits in (policy, reference)]
    found = triton_rows.statistics(Tile(*strided), targets, True)
    for value, want in zip(found[:5], exact[:5]):
        close(value, want, 1e-5)
    expanded = torch.ones(()).expand(COUNT), torch.full((1,), 0.5).expand(COUNT)
    lse = exact.lse, exact.reference_lse
    doubled = [torch.stack([value, value], 1)[:, 0] for value in lse]
    got = triton_rows.slice_gradient(
        Tile(policy.clone(), reference.clone()), tuple(v.float() for v in doubled), targets, 0, expanded,
        LogitMap(), torch.float32,
    )  # fmt: skip
    wide = tuple(value.double() for value in expanded)
    want = rows.slice_gradient(
        Tile(policy.double(), reference.double()), lse, targets, 0, wide, LogitMap(), torch.float64
    )
    close(got, want, 1e-5)


def check_special_logits():
    """-inf counts as in float64, nan stays nan."""
    generator = torch.Generator().manual_seed(2)
    policy, reference = (torch.randn(6, 5000, generator=generator) for _ in range(2))
    targets = torch.zeros(6, dtype=torch.long)
    policy[0, 3] = reference[0, 3] = policy[1, 4999] = reference[1, 4999] = -float("inf")
    reference[2, 4097] = policy[3, 4097] = -float("inf")
    policy[4, 10], reference[5, 4990] = float("nan"), float("nan")
    found = triton_rows.statistics(Tile(policy, reference), targets, True)
    exact = rows.statistics(Tile(policy.double(), reference.double()), targets, True)
    for value, want in zip(found[:5], exact[:5]):
        torch.testing.assert_close(value.double(), want, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert found.kl.isnan().tolist() == [False] * 4 + [True] * 2
    assert found.kl[3] == float("inf")
    nothing = triton_rows.statistics(Tile(torch.full((1, 40), -float("inf")), None), targets[:1], False)
    assert nothing.lse == -float("inf")


def check_default_dtype():
    """A program may have set another one."""
    torch.set_default_dtype(torch.float64)
    found = triton_rows.statistics(
        Tile(torch.zeros(2, 9, dtype=torch.float32), None), torch.zeros(2).long(), False
    )
    torch.set_default_dtype(torch.float32)
    assert found.lse.dtype == torch.float32
    close(found.lse, torch.zeros(2, 9).double().logsumexp(-1), 1e-6)


def check_statistics_from_logits():
    """Tables of logits go through the kernels too, positions that stand twice in the index included."""
    triton_rows.usable = lambda tensor: tensor.dtype != torch.float64
    generator = torch.Generator().manual_seed(3)
    policy, reference = (torch.randn(9, 130, generator=generator) for _ in range(2))
    index, other = torch.tensor([1, 1, 4, 8]), torch.tensor([0, 2, 2, 5])
    targets, weights = torch.tensor([5, 6, 129, 0]), torch.tensor([1.0, -2.0, 0.5, 3.0])
    results = []
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        leaf = policy.bfloat16().to(dtype).requires_grad_()
        given = (leaf, reference.bfloat16().to(dtype), index, other, targets)
        found = statistics_at(*given, with_kl=True)
        ((found.policy_logps + found.token_kl) * weights).sum().backward()
        results.append([*(value.detach().double() for value in found[:3]), leaf.grad.double()])
    for value, low, want in zip(*results):
        torch.testing.assert_close(value, want, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(low, want, atol=2e-2, rtol=1e-2)


main()
check_memory_layouts()
check_special_logits()
check_default_dtype()
check_statistics_from_logits()
print("all right")
