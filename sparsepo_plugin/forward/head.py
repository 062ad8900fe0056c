"""Take final hidden states off a model at its output head, and use the head's weights through its own call.

The head multiplies one position, or the chosen ones, instead of all: what the model does before and after it
stays the model's own. Frameworks that gather a sharded weight do so by hooks on the head's call, which is
why the statistics are computed inside such a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsepo_plugin.forward.head_weights import HeadWeights, LogitMap

Compute = Callable[[Tensor, HeadWeights, torch.dtype | None], tuple[Tensor, ...]]


class HeadHook:
    """Hooks on the output head of one model.

    Args:
      model: a transformers model; its ``get_output_embeddings`` names the head.

    Attributes:
      head: the output head, None where the model names none.
    """

    def __init__(self, model: Any) -> None:
        self.head: nn.Module | None = model.get_output_embeddings()

    def plain(self) -> bool:
        """Whether the head is a matrix with an optional bias and nothing else, in a floating dtype."""
        head = self.head
        return (
            head is not None
            and type(head).forward is nn.Linear.forward
            and "forward" not in vars(head)
            and isinstance(head.weight, Tensor)
            and head.weight.is_floating_point()
        )

    @contextmanager
    def capturing(self, index: Tensor, *, compute: bool) -> Iterator[CapturedStates]:
        """Within the context the model's next forward pass leaves its final hidden states at ``index``.

        Args:
          index: flat positions in [rows, seq] of the model's own layout, [n].
          compute: true: the model's logits are those of ``index``, [1, n, vocab]; false: none are computed
            and the model's output holds the image of LogitMap.grid in their place.
        """
        assert self.head is not None
        captured = CapturedStates(index)
        # The last of the hooks before the head: all others, such as a recorder's, see every position.
        handles = [self.head.register_forward_pre_hook(captured.take_input(compute))]
        if not compute:
            handles.append(self.head.register_forward_hook(captured.replace_output))
        try:
            yield captured
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def computing(self, index: Tensor, compute: Compute) -> Iterator[CapturedStates]:
        """Within the context the head's call in the model's next forward pass gives other values than logits.

        They leave the head as its output, so that the hooks of a framework that shards it see them and make
        its weight whole in the backward pass too. The model's own output is made to depend on them: hooks on
        that, which make the rest of the model whole, then run before their backward pass.

        Args:
          index: flat positions in [rows, seq] of the model's own layout, [n].
          compute: maps what the head was called with, [n, hidden], its weights, and the dtype in which
            autocast would have it multiply to the values.
        """
        assert self.head is not None
        head, captured = self.head, CapturedStates(index)

        def forward(states: Tensor) -> tuple[Tensor, ...]:
            with torch.autocast(states.device.type, enabled=False):
                weights = HeadWeights(head.weight, head.bias)  # type: ignore[arg-type]
                captured.values = compute(states[0], weights, captured.autocast)
            return captured.values

        handles = [
            head.register_forward_pre_hook(captured.take_input(True)),
            head.register_forward_hook(captured.take_values),
        ]
        head.forward = forward
        try:
            yield captured
        finally:
            del head.forward
            for handle in handles:
                handle.remove()


class CapturedStates:
    """What one forward pass left.

    Attributes:
      hidden: final hidden states at the index, [n, hidden]; None if the head was not called as expected.
      calls: how often the head was called.
      everything: final hidden states of all positions, [rows, seq, hidden].
      autocast: the dtype in which autocast had the head multiply; None without autocast.
      values: what ``HeadHook.computing`` had computed.
    """

    values: tuple[Tensor, ...] = ()

    def __init__(self, index: Tensor) -> None:
        self._index, self.calls = index, 0
        self.hidden: Tensor | None = None
        self.everything: Tensor | None = None
        self.autocast: torch.dtype | None = None
        self._grid: Tensor | None = None

    def take_input(self, compute: bool) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
        """Hook before the head: keep the states, and give the head what it shall multiply."""

        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            self.calls += 1
            if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or inputs[0].ndim != 3:
                return None
            self.everything, device = inputs[0], inputs[0].device.type
            if torch.is_autocast_enabled(device):
                self.autocast = torch.get_autocast_dtype(device)
            self.hidden = self.everything.flatten(0, 1).index_select(0, self._index)
            return (self.hidden[None] if compute else self.everything[:1, :1].detach(),)

        return hook

    def replace_output(self, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        """Hook after the head: the grid instead of a logit nobody needs."""
        self._grid = LogitMap.grid(output)
        return self._grid

    def take_values(self, _: nn.Module, __: tuple[Any, ...], output: tuple[Tensor, ...]) -> Tensor:
        """Hook after a head that computed values: keep them, and give the model 0 times them.

        FSDP2's mixed precision casts what a module gives; the values stay as they were, and carry its hooks.
        """
        self.values = tuple(
            seen if seen.dtype == made.dtype else made for made, seen in zip(self.values, output, strict=True)
        )
        nothing = sum(0 * value.sum() for value in self.values if value.requires_grad)
        return LogitMap.grid(self.values[0]) + nothing

    def logit_map(self, logits: Tensor) -> LogitMap | None:
        """What the model made of the grid; None if it is not understood."""
        if self._grid is None or self.hidden is None or self.calls != 1:
            return None
        return LogitMap.recognise(self._grid, logits)


def call_head(head: nn.Module, hidden: Tensor, compute: Callable[[Tensor, HeadWeights], Any]) -> Any:
    """Call the head with another arithmetic, so that the hooks on it see an ordinary call.

    Args:
      head: a plain output head.
      hidden: what the head is called with.
      compute: maps what the head was called with and its weights to tensors.
    """

    def forward(states: Tensor) -> Any:
        return compute(states, HeadWeights(head.weight, head.bias))  # type: ignore[arg-type]

    head.forward = forward
    try:
        return head(hidden)
    finally:
        del head.forward
