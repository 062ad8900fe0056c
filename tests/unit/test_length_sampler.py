"""Length-aware batches draw upstream's pairs, step by step, and cut them into micro-batches of like size."""

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

from sparsepo_plugin.adapters.openrlhf.length_batches import LengthSampler  # noqa: E402

# Pairs, size of a micro-batch, processes, micro-batches per process and step, seed, epoch.
shapes = st.tuples(
    st.integers(8, 90), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 9),
    st.integers(0, 3),
)  # fmt: skip


def sizes_of(pairs):
    return torch.randint(1, 50, (pairs,), generator=torch.Generator().manual_seed(pairs)).tolist()


def samplers(pairs, micro, processes, accumulated, seed, epoch, consumed=0):
    made = []
    for rank in range(processes):
        made.append(
            LengthSampler(
                sizes_of(pairs), micro_batch=micro, step=micro * processes * accumulated,
                num_replicas=processes, rank=rank, seed=seed,
            )
        )  # fmt: skip
        made[-1].set_epoch(epoch, consumed_samples=consumed)
    return made


def upstreams(pairs, processes, seed, epoch):
    made = [DistributedSampler(range(pairs), processes, rank, True, seed, True) for rank in range(processes)]
    for sampler in made:
        sampler.set_epoch(epoch)
    return made


def micro_batches(sampler, micro):
    """What the loader makes of a sampler: whole micro-batches."""
    indices = list(sampler)
    assert len(indices) == len(sampler)
    return [indices[start : start + micro] for start in range(0, len(indices) - micro + 1, micro)]


def steps(per_process, accumulated):
    """Pairs of every optimizer step, over all processes; the last may be a part of one."""
    count = len(per_process[0])
    return [
        sorted(i for own in per_process for part in own[start : start + accumulated] for i in part)
        for start in range(0, count, accumulated)
    ]


@given(shapes)
def test_every_optimizer_step_sees_upstreams_pairs(shape):
    pairs, micro, processes, accumulated, seed, epoch = shape
    ours = [micro_batches(sampler, micro) for sampler in samplers(*shape)]
    theirs = [micro_batches(sampler, micro) for sampler in upstreams(pairs, processes, seed, epoch)]
    assert steps(ours, accumulated) == steps(theirs, accumulated)
    drawn = [index for own in ours for part in own for index in part]
    assert len(set(drawn)) == len(drawn) > pairs - micro * processes - processes


@given(shapes)
def test_no_other_cut_of_a_step_needs_less_padding(shape):
    _, micro, _, accumulated, *_ = shape
    sizes = sizes_of(shape[0])
    ours = [micro_batches(sampler, micro) for sampler in samplers(*shape)]
    for start in range(0, len(ours[0]), accumulated):
        parts = [part for own in ours for part in own[start : start + accumulated]]
        step = sorted(sizes[index] for part in parts for index in part)
        least = sum(step[micro - 1 :: micro])  # micro-batches of the sorted step: the least sum of maxima
        assert sum(max(sizes[index] for index in part) for part in parts) == least


@given(shapes, st.integers(0, 5))
def test_a_resumed_epoch_goes_on_with_the_same_pairs(shape, done):
    pairs, micro, processes, accumulated, *_ = shape
    step = micro * processes * accumulated
    done = min(done, pairs // step)
    consumed = done * step
    for whole, rest in zip(samplers(*shape), samplers(*shape, consumed=consumed)):
        assert list(rest) == list(whole)[done * micro * accumulated :]


@given(st.integers(24, 90), st.integers(0, 9))
def test_steps_do_not_depend_on_processes_and_micro_batches(pairs, seed):
    found = []
    for micro, processes, accumulated in ((12, 1, 1), (4, 1, 3), (2, 2, 3), (1, 3, 4), (4, 3, 1)):
        drawn = [micro_batches(s, micro) for s in samplers(pairs, micro, processes, accumulated, seed, 1)]
        found.append(steps(drawn, accumulated)[: pairs // 12])
    assert all(other == found[0] for other in found)


def test_the_order_within_a_step_is_random_and_no_epoch_is_like_another():
    sizes = sizes_of(64)
    means = []
    for epoch in range(20):
        (sampler,) = samplers(64, 4, 1, 16, 0, epoch)
        means.append([sum(sizes[i] for i in part) / 4 for part in micro_batches(sampler, 4)])
    assert len({tuple(row) for row in means}) == 20
    assert not any(row in (sorted(row), sorted(row, reverse=True)) for row in means)
    # A place in the step is not longer than another: the mean over epochs is near the overall mean.
    places = torch.tensor(means).mean(0)
    assert (places - sum(sizes) / 64).abs().max() < 4 * 14.4 / 20**0.5


def test_upstreams_own_loss_is_refused(inputs):
    with pytest.raises(UserError, match=r"length_batching: got upstream's own loss, expected --loss"):
        preflight.check(flags.parse([*inputs.flags(), "--data.length_batching"]), 1)
