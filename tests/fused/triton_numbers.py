"""Compare the kernels, in Triton's interpreter, with plain torch in float64; exit with 1 on a difference."""

from __future__ import annotations

import itertools

import torch

from sparsepo_plugin.forward.statistics import LogitMap, rows, triton_rows
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
    print("all right")


main()
