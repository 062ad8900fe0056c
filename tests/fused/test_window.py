"""The response window holds every predicted response token once, whatever stands around it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX
from sparsepo_plugin.forward.window import packed_source, response_window

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=6)


def padded(rows, left):
    """Ids 1, 2, 3 .. of every (prompt, response, further padding); labels on the response."""
    width = max(sum(row) for row in rows) + 1
    ids, labels = (
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.full((len(rows), width), IGNORE_INDEX),
    )
    for number, (prompt, response, _) in enumerate(rows):
        start = width - prompt - response if left else 0
        tokens = torch.arange(1, prompt + response + 1) + 100 * number
        ids[number, start : start + prompt + response] = tokens
        labels[number, start + prompt : start + prompt + response] = tokens[prompt:]
    return ids, labels


@given(ROWS, st.booleans())
def test_the_window_holds_what_is_predicted_and_its_predecessor(rows, left):
    ids, labels = padded(rows, left)
    window = response_window(ids, labels)
    wanted = [row[1:][row[1:] != IGNORE_INDEX].tolist() for row in labels]
    assert [row[row != IGNORE_INDEX].tolist() for row in window.labels] == wanted
    assert window.source.shape[1] == 1 + max(map(len, wanted))
    assert (window.labels[:, 0] == IGNORE_INDEX).all()
    assert torch.equal(window.take(ids), window.token_ids)
    number, column = window.predicting()
    state = window.take(ids)[:, :-1][number, column]
    target = window.labels[:, 1:][number, column]
    # A token is predicted at the position before it, in its own row.
    starts = torch.tensor([[bool(row[0] == 0)] for row in rows])[number, 0]
    assert torch.equal(state + 1, target) or bool((state[state + 1 != target] == 0).all() and starts.any())


@given(ROWS)
def test_a_packed_window_points_at_the_same_tokens(rows):
    ids, labels = padded(rows, left=False)
    lengths = torch.tensor([prompt + response for prompt, response, _ in rows])
    attention = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    window = response_window(ids, labels)
    number, column = window.predicting()
    source = packed_source(window.source, attention)
    flat = ids[attention.bool()]
    assert torch.equal(flat[source[:, 1:][number, column]], window.labels[:, 1:][number, column])
    assert torch.equal(flat[source[number, column]], ids.flatten()[window.source[number, column]])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="alike: got"):
        response_window(torch.zeros(2, 3), torch.zeros(2, 4))
