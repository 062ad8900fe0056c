"""The layout of shared rows, against one that is written out token by token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prefix_models import Batch, odd_batch, tokens

from sparsepo_plugin.adapters.prefix import shared_rows

rows_of_tokens = st.lists(st.integers(3, 5), min_size=1, max_size=7)
pairs_of_rows = st.lists(
    st.tuples(
        st.lists(st.integers(3, 5), max_size=6), rows_of_tokens, rows_of_tokens, st.integers(0, 8)
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip


def common_length(one, other):
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length


def laid_out(pairs):
    """Chosen and rejected rows, prompt lengths, and what is tested."""
    chosen = [[*prompt, *one] for prompt, one, _, _ in pairs]
    rejected = [[*prompt, *other] for prompt, _, other, _ in pairs]
    lengths = [count for *_, count in pairs]
    batch = Batch([*map(torch.tensor, chosen)], [*map(torch.tensor, rejected)], lengths)
    return chosen, rejected, lengths, shared_rows(*batch.parts)


@given(pairs_of_rows)
def test_rows_equal_those_written_out_token_by_token(pairs):
    chosen, rejected, _, rows = laid_out(pairs)
    for index, (one, other) in enumerate(zip(chosen, rejected)):
        shared = common_length(one, other)
        rest = len(one) - shared, len(other) - shared
        size = shared + sum(rest)
        kept = rows.attention_mask[index].bool()
        assert kept.tolist() == [column < size for column in range(rows.token_ids.shape[1])]
        assert rows.token_ids[index][kept].tolist() == [*one, *other[shared:]]
        assert rows.position_ids[index][kept].tolist() == [*range(len(one)), *range(shared, len(other))]
        assert rows.segments[index].tolist()[:size] == [0] * shared + [1] * rest[0] + [2] * rest[1]
        assert set(rows.segments[index].tolist()[size:]) <= {-1}


@given(pairs_of_rows)
def test_windows_hold_the_responses_and_the_token_before_them(pairs):
    chosen, rejected, lengths, rows = laid_out(pairs)
    window = rows.window
    assert torch.equal(window.take(rows.token_ids), window.token_ids)
    assert torch.equal(window.take(rows.position_ids), rows.own_positions)
    whose = window.take(torch.arange(len(pairs))[:, None].expand_as(rows.token_ids))
    segments = window.take(rows.segments)
    longest = 0
    for index, (row, count) in enumerate(zip([*chosen, *rejected], lengths * 2)):
        # A response starts after its prompt; the first token of a row has nothing that predicts it.
        start = min(max(count, 1), len(row))
        response = row[start:]
        longest = max(longest, len(response))
        assert whose[index].unique().tolist() == [index % len(pairs)]
        assert set(segments[index].tolist()) <= {0, 1 + index // len(pairs)}
        assert window.token_ids[index, 0] == row[start - 1]
        assert window.labels[index, 0] == -100
        found = window.labels[index, 1:]
        assert found[: len(response)].tolist() == response
        assert set(found[len(response) :].tolist()) <= {-100}
    assert window.labels.shape == (2 * len(pairs), longest + 1)


def test_the_side_of_the_padding_makes_no_difference():
    batch = odd_batch()
    expected = shared_rows(*batch.parts)

    def to_the_right(ids, attention):
        lengths = attention.sum(1)
        shift = ids.shape[1] - lengths
        order = (torch.arange(ids.shape[1]) - shift[:, None]) % ids.shape[1]
        return ids.gather(1, order), attention.gather(1, order)

    chosen, rejected = to_the_right(*batch.parts[:2]), to_the_right(*batch.parts[2:4])
    assert not torch.equal(chosen[0], batch.parts[0])
    found = shared_rows(*chosen, *rejected, batch.parts[4])
    for one, other in zip([*expected[:4], *expected.window], [*found[:4], *found.window]):
        assert torch.equal(one, other)


def test_a_window_passes_gradients_to_every_place_it_reads():
    rows = shared_rows(*odd_batch().parts)
    values = torch.zeros(*rows.token_ids.shape, 2, requires_grad=True)
    rows.window.take(values).sum().backward()
    counts = torch.bincount(rows.window.source.flatten(), minlength=rows.token_ids.numel())
    assert torch.equal(values.grad[..., 0].flatten(), counts.float())
    assert counts.max() > 1


def test_left_truncation_leaves_what_the_rows_still_share():
    # The longer response has pushed its prompt out on the left: the rows no longer begin with the same token.
    batch = Batch([tokens("cdefgh")], [tokens("efijkl")], [4])
    rows = shared_rows(*batch.parts)
    assert rows.segments.tolist() == [[1] * 6 + [2] * 6]
    assert rows.window.labels[:, 1:].tolist() == [tokens("gh").tolist(), tokens("kl").tolist()]


@pytest.mark.parametrize("part", range(5))
def test_shapes_that_do_not_fit_are_named(part):
    parts = list(odd_batch().parts)
    parts[part] = parts[part][:-1]
    with pytest.raises(ValueError, match="shared_rows: got ids and attention of shapes"):
        shared_rows(*parts)


def test_a_row_without_tokens_is_refused():
    parts = list(odd_batch().parts)
    parts[3] = parts[3].clone()
    parts[3][2] = 0
    with pytest.raises(ValueError, match="a row without tokens"):
        shared_rows(*parts)
