"""Values of models that DeepSpeed has split over processes, made whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparsepo_plugin.forward.head_weights import HeadWeights


class DeepSpeedSharding:
    """Implements forward.sharding.Sharding for ZeRO-3 and tensor parallelism.

    Args:
      strategy: upstream's strategy.
    """

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy

    @property
    def collective(self) -> bool:
        """ZeRO-3 gathers the head on all processes together."""
        return bool(self._strategy.stage == 3)

    @contextmanager
    def open_head(self, head: nn.Module) -> Iterator[HeadWeights]:
        """The weights of a head, made whole where ZeRO-3 has split them."""
        with torch.no_grad(), deepspeed.zero.GatheredParameters(list(head.parameters())):
            yield HeadWeights(head.weight, head.bias)  # type: ignore[arg-type]

    def mean_over_shards(
        self, means: Mapping[str, Tensor], features: Mapping[str, int]
    ) -> Mapping[str, Tensor]:
        """Feature means over the processes of a tensor-parallel group.

        An activation that every process holds whole keeps its mean.
        """
        if self._strategy.args.ds.tensor_parallel_size == 1:
            return means
        group = self._strategy.ds_device_mesh["tp"].get_group()
        names = list(means)
        counts = torch.tensor([float(features[name]) for name in names], device=means[names[0]].device)
        totals = torch.stack([means[name] for name in names]) * counts[:, None, None]
        for value in (totals, counts):
            dist.all_reduce(value, group=group)
        return dict(zip(names, totals / counts[:, None, None]))
