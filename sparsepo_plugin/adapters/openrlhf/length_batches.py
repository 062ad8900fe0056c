"""Length-aware batches: the pairs of an optimizer step stay what they are, its micro-batches become even.

Upstream's order decides which pairs an optimizer step sees. Within a step they are sorted by size and cut
into micro-batches of similar pairs, which run in a random order. The gradient of a step is a mean over pairs,
so it changes by no more than rounding, whatever the number of processes and the size of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from openrlhf.utils.deepspeed import DeepspeedStrategy
from openrlhf.utils.distributed_sampler import DistributedSampler
from torch import Tensor


class LengthBatchedLoading(DeepspeedStrategy):
    """Upstream's strategy; a training set that knows the sizes of its pairs is dealt by them."""

    def setup_dataloader(
        self,
        replay_buffer: Any,
        batch_size: int,
        pin_memory: bool = False,
        shuffle: bool = True,
        *args: Any,
        **options: Any,
    ) -> Any:
        """Upstream's loader; with LengthSampler where the set has ``sizes`` and is to be shuffled."""
        sizes = getattr(replay_buffer, "sizes", None)
        if sizes is not None and shuffle:
            group = self.ds_device_mesh["dp"].get_group()
            replicas = dist.get_world_size(group=group)
            options["sampler"] = LengthSampler(
                sizes,
                micro_batch=batch_size,
                step=batch_size * replicas * self.accumulated_gradient,
                num_replicas=replicas,
                rank=dist.get_rank(group=group),
                seed=self.seed,
            )
        return super().setup_dataloader(replay_buffer, batch_size, pin_memory, shuffle, *args, **options)


class LengthSampler(DistributedSampler):
    """Deals the pairs of every optimizer step in micro-batches of similar size.

    It draws every pair that upstream's sampler and loader would draw, once an epoch, and goes on from
    ``consumed_samples`` as they do.

    Args:
      sizes: of the pairs, in tokens or any unit.
      micro_batch: pairs of a process per forward pass.
      step: pairs of all processes per optimizer step, a multiple of micro_batch * num_replicas.
      num_replicas: processes that hold different pairs.
      rank: this process's number among them.
      seed: of upstream's order, and of ours of the micro-batches.
    """

    def __init__(
        self, sizes: list[int], *, micro_batch: int, step: int, num_replicas: int, rank: int, seed: int
    ) -> None:
        super().__init__(sizes, num_replicas, rank, shuffle=True, seed=seed, drop_last=True)
        self._sizes, self._micro_batch, self._step = torch.tensor(sizes), micro_batch, step

    def __iter__(self) -> Iterator[int]:
        """Indices of this process's pairs from ``consumed_samples`` on; the loader cuts micro-batches."""
        whole = DistributedSampler(self.dataset, 1, 0, shuffle=True, seed=self.seed, drop_last=True)
        whole.set_epoch(self.epoch)
        order = torch.tensor(list(whole))[: self.total_size]
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        mine = [part for group in order.split(self._step) for part in self._dealt(group, generator)]
        return iter(torch.cat(mine)[self.consumed_indicies :].tolist())

    def _dealt(self, group: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """This process's pairs of a step: whole micro-batches, and those that the loader will drop."""
        turn = self._micro_batch * self.num_replicas
        full = len(group) // turn * turn
        kept, dropped = group[:full], group[full:]
        turns = kept[self._sizes[kept].argsort(stable=True)].view(-1, self.num_replicas, self._micro_batch)
        turns = turns[torch.randperm(len(turns), generator=generator)]
        return turns[:, self.rank].flatten(), dropped[self.rank :: self.num_replicas]
