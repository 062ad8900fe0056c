"""A step's pairs follow from seed and step alone, in micro-batches of like size if asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsepo_plugin.adapters.openrlhf import flags, preflight
from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf
from sparsepo_plugin.errors import UserError

import_openrlhf()
from openrlhf.utils.distributed_sampler import DistributedSampler  # noqa: E402

from sparsepo_plugin.adapters.openrlhf.data_order import StepSampler  # noqa: E402

# Pairs, size of a micro-batch, processes, micro-batches per process and step, seed, epochs, sorted by size.
shapes = st.tuples(
    st.integers(48, 90), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 9),
    st.integers(1, 3), st.booleans(),
)  # fmt: skip


def sizes_of(pairs):
    return torch.randint(1, 50, (pairs,), generator=torch.Generator().manual_seed(pairs)).tolist()


def samplers(pairs, micro, processes, accumulated, seed, epochs, sort, consumed=0):
    made = []
    for rank in range(processes):
        made.append(
            StepSampler(
                pairs, epochs=epochs, step=micro * processes * accumulated, micro_batch=micro,
                num_replicas=processes, rank=rank, seed=seed, sizes=sizes_of(pairs) if sort else None,
            )
        )  # fmt: skip
        made[-1].set_epoch(0, consumed_samples=consumed)
    return made


def micro_batches(sampler, micro):
    """What the loader makes of a sampler: whole micro-batches, and no pair left over."""
    indices = list(sampler)
    assert len(indices) == len(sampler)
    assert len(indices) % micro == 0
    return [indices[start : start + micro] for start in range(0, len(indices), micro)]


def steps(per_process, accumulated):
    """Pairs of every optimizer step, over all processes."""
    count = len(per_process[0])
    assert count % accumulated == 0
    return [
        sorted(i for own in per_process for part in own[start : start + accumulated] for i in part)
        for start in range(0, count, accumulated)
    ]


def drawn(shape, consumed=0):
    return steps([micro_batches(s, shape[1]) for s in samplers(*shape, consumed=consumed)], shape[3])


@given(shapes)
def test_the_steps_are_the_batches_of_upstreams_epochs_one_after_the_other(shape):
    pairs, micro, processes, accumulated, seed, epochs, _ = shape
    stream = []
    for epoch in range(epochs):
        upstream = DistributedSampler(range(pairs), 1, 0, True, seed, True)
        upstream.set_epoch(epoch)
        stream += list(upstream)
    step = micro * processes * accumulated
    expected = [sorted(stream[start : start + step]) for start in range(0, len(stream) - step + 1, step)]
    assert drawn(shape) == expected


@given(shapes, st.integers(0, 5))
def test_a_resumed_run_goes_on_with_the_same_pairs_in_the_same_order(shape, done):
    _, micro, processes, accumulated, *_ = shape
    done = min(done, samplers(*shape)[0].steps)
    consumed = done * micro * processes * accumulated
    for whole, rest in zip(samplers(*shape), samplers(*shape, consumed=consumed)):
        assert list(rest) == list(whole)[done * micro * accumulated :]


@given(st.integers(24, 90), st.integers(0, 9), st.booleans())
def test_steps_do_not_depend_on_processes_and_micro_batches(pairs, seed, sort):
    found = [
        drawn((pairs, micro, processes, accumulated, seed, 3, sort))
        for micro, processes, accumulated in ((12, 1, 1), (4, 1, 3), (2, 2, 3), (1, 3, 4), (4, 3, 1))
    ]
    assert len(found[0]) == 3 * pairs // 12
    assert all(other == found[0] for other in found)


@given(shapes)
def test_no_other_cut_of_a_step_needs_less_padding(shape):
    pairs, micro, _, accumulated, *_ = shape = (*shape[:6], True)
    sizes = sizes_of(pairs)
    ours = [micro_batches(sampler, micro) for sampler in samplers(*shape)]
    for start in range(0, len(ours[0]), accumulated):
        parts = [part for own in ours for part in own[start : start + accumulated]]
        step = sorted(sizes[index] for part in parts for index in part)
        least = sum(step[micro - 1 :: micro])  # micro-batches of the sorted step: the least sum of maxima
        assert sum(max(sizes[index] for index in part) for part in parts) == least


def test_the_order_within_a_step_is_random_and_no_step_is_like_another():
    sizes = sizes_of(64)
    (sampler,) = samplers(64, 4, 1, 16, 0, 20, True)
    parts = micro_batches(sampler, 4)
    means = [
        [sum(sizes[i] for i in part) / 4 for part in parts[start : start + 16]] for start in range(0, 320, 16)
    ]
    assert len({tuple(row) for row in means}) == 20
    assert not any(row in (sorted(row), sorted(row, reverse=True)) for row in means)
    # A place in the step is not longer than another: the mean over epochs is near the overall mean.
    places = torch.tensor(means).mean(0)
    assert (places - sum(sizes) / 64).abs().max() < 4 * 14.4 / 20**0.5


@pytest.mark.parametrize(
    ("pairs", "epochs", "said"),
    [
        (10, 3, "10 pairs in 3 epochs: 7 steps of 4; the last 2 of 30 draws fill no batch and reach no step"),
        (11, 1, "11 pairs in 1 epoch: 2 steps of 4; the last 3 of 11 draws fill no batch and reach no step"),
        (12, 1, "12 pairs in 1 epoch: 3 steps of 4"),
    ],
)
def test_what_reaches_no_step_is_said(pairs, epochs, said):
    (sampler,) = samplers(pairs, 2, 1, 2, 0, epochs, False)
    assert sampler.describe() == said


def test_fewer_pairs_than_a_batch_are_refused():
    with pytest.raises(UserError, match=r"3 pairs in 1 epochs: got fewer than one batch of 8"):
        samplers(3, 2, 1, 4, 0, 1, False)


def test_upstreams_own_loss_is_refused(inputs):
    with pytest.raises(UserError, match=r"length_batching: got upstream's own loss, expected --loss"):
        preflight.check(flags.parse([*inputs.flags(), "--data.length_batching"]), 1)
