"""How a trainer spreads one model over processes, as far as a forward pass has to know of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from sparsepo_plugin.forward.head_weights import HeadWeights


class Sharding(Protocol):
    """What a trainer whose processes hold parts of a model provides; ``WholeModels`` is everyone else's.

    The policy's own head needs nothing of this: it is called, and the trainer's hooks make it whole.
    """

    @property
    def collective(self) -> bool:
        """Whether ``open_head`` is an act of all processes, so that each must do it equally often."""

    def open_head(self, head: nn.Module) -> AbstractContextManager[HeadWeights]:
        """Within the context, the weights of the reference's output head, whole and without gradient."""

    def mean_over_shards(
        self, means: Mapping[str, Tensor], features: Mapping[str, int]
    ) -> Mapping[str, Tensor]:
        """Feature means of whole activations from those that this process took of its part.

        Args:
          means: mean over this process's features by site, each [rows, seq], equal shapes.
          features: number of this process's features by site.
        """


class WholeModels:
    """Every process holds whole models: one process, DistributedDataParallel, ZeRO 0 to 2."""

    collective = False

    @contextmanager
    def open_head(self, head: nn.Module) -> Iterator[HeadWeights]:
        """The head's own weights."""
        with torch.no_grad():
            yield HeadWeights(head.weight, head.bias)  # type: ignore[arg-type]

    def mean_over_shards(
        self, means: Mapping[str, Tensor], features: Mapping[str, int]
    ) -> Mapping[str, Tensor]:
        """The means as they are."""
        return means
