"""Products as a GPU wants them: widths and rows in blocks, rows of memory aligned, the dtype of autocast."""

from __future__ import annotations

import naive
import pytest
import torch

from sparsepo_plugin.forward.statistics import fused as module
from sparsepo_plugin.forward.statistics import fused_statistics, reference, shapes
from sparsepo_plugin.forward.statistics.sides import Side


@pytest.mark.parametrize("vocab", [32_000, 50_257, 128_256, 128_257, 256_000])
@pytest.mark.parametrize("count", [1, 7, 523, 2400, 4803, 16_384, 1 << 20])
def test_tiles_of_a_gpu_are_blocks_of_256(count, vocab):
    parts = shapes.slices(count, vocab, "cuda")
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == vocab
    assert all(part.start % 256 == 0 for part in parts)
    blocks = shapes.row_blocks(count, vocab, "cuda")
    assert blocks[-1].stop == count
    assert all(block.start % 256 == 0 for block in blocks)
    # Full ones, not slivers: a tile has at least half of the elements that it may have.
    if len(blocks) > 1:
        assert blocks[0].stop * vocab > shapes.TILE["cuda"] / 3
    if len(parts) > 1 and count < 200_000:
        assert parts[0].stop * count > shapes.TILE["cuda"] / 2


def test_a_cpus_tiles_are_small_and_no_rows_are_one_empty_block():
    assert shapes.slices(480, 32_000, "cpu")[0].stop * 480 <= 1 << 20
    assert shapes.row_blocks(0, 100, "cpu") == shapes.row_blocks(0, 100, "cuda") == [slice(0, 0)]


@pytest.fixture(params=["one tile", "many tiles"])
def as_on_a_gpu(request, monkeypatch):
    """A CPU with the alignment of a GPU, and tiles that do not divide the vocabulary."""
    monkeypatch.setattr(shapes, "ALIGN", {"cpu": 16})
    monkeypatch.setattr(shapes, "TILE", {"cpu": 500 if request.param == "many tiles" else 1 << 20})
    monkeypatch.setattr(module, "KEEP", 0)


@pytest.mark.parametrize("vocab", [101, 257, 320])
def test_padded_memory_changes_no_number(vocab, as_on_a_gpu, monkeypatch):
    given = naive.case(37, vocab, 12)
    weights = torch.linspace(-1, 2, 37, dtype=torch.float64)
    expected = naive.statistics(given)
    wanted = torch.autograd.grad((expected[0] * weights + expected[2]).sum(), given.leaves())
    for by_slices in (True, False):
        monkeypatch.setattr(module, "_by_slices", lambda _, slices=by_slices: slices)
        found = fused_statistics(given.hidden, given.head(), given.targets, given.reference(), with_kl=True)
        got = torch.autograd.grad((found[0] * weights + found[2]).sum(), given.leaves())
        for value, want in zip((*found[:3], *got), (*expected, *wanted), strict=True):
            torch.testing.assert_close(value, want, atol=1e-12, rtol=1e-10)


def test_rows_of_memory_begin_where_kernels_want_them(as_on_a_gpu):
    for width in (1, 15, 16, 33):
        assert shapes.aligned(3, width, torch.float32, torch.device("cpu")).stride(0) % 16 == 0
        assert shapes.product(torch.ones(3, 4), torch.ones(4, width)).stride(0) % 16 == 0


@pytest.mark.parametrize("frozen", [False, True])
def test_products_take_the_dtype_of_autocast(frozen):
    """Float32 states and weights that a model under bfloat16 autocast would have rounded for its head."""
    given = naive.case(21, 300, 24, dtype=torch.float32, frozen=frozen)
    reference = given.reference()._replace(dtype=torch.bfloat16)
    found = fused_statistics(
        given.hidden, given.head(), given.targets, reference, with_kl=True, dtype=torch.bfloat16
    )
    got = torch.autograd.grad((found[0] + found[2]).sum(), given.leaves())
    rounded = given._replace(
        hidden=given.hidden.detach().bfloat16().requires_grad_(),
        weight=given.weight.detach().bfloat16().requires_grad_(not frozen),
        reference_hidden=given.reference_hidden.bfloat16(),
        reference_weight=given.reference_weight.bfloat16(),
    )  # fmt: skip
    expected = naive.statistics(naive.in_float64(rounded))
    for value, want in zip(found, expected):
        torch.testing.assert_close(value.double(), want.detach(), atol=2e-5, rtol=2e-5)
    wide = naive.in_float64(given)
    plain = naive.statistics(wide)
    assert (found[0].double() - plain[0]).abs().max() > 1e-4
    for value, want in zip(got, torch.autograd.grad((plain[0] + plain[2]).sum(), wide.leaves()), strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), want, atol=4e-2, rtol=4e-2)


@pytest.mark.parametrize(
    ("hidden", "weight", "autocast", "factors"),
    [
        (torch.float32, torch.float32, None, torch.float32),
        (torch.float32, torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32, None, torch.bfloat16),
        (torch.float32, torch.bfloat16, None, torch.bfloat16),
        (torch.float16, torch.float16, None, torch.float16),
    ],
    ids=str,
)
def test_on_a_device_factors_have_the_narrowest_dtype(hidden, weight, autocast, factors):
    head = module.HeadWeights(torch.empty(9, 4, dtype=weight, device="meta"), None)
    side = Side.of(torch.empty(3, 4, dtype=hidden, device="meta"), head, module.LogitMap(), autocast)
    assert side.hidden.dtype == side.rows_of_weight(slice(0, 5)).dtype == factors


def test_chunks_of_logits_are_as_large_as_a_device_wants_them():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert len(reference._chunks(4800, 128_256, cuda)) <= 10
    assert len(reference._chunks(4800, 128_256, cpu)) == 600


def test_the_gradient_of_the_states_is_added_up_in_place():
    total, left, right = torch.ones(5, 3), torch.randn(5, 7), torch.randn(7, 3)
    before = total.data_ptr()
    shapes.add_product(total, left, right)
    assert total.data_ptr() == before
    torch.testing.assert_close(total, 1 + left @ right)
