"""Hidden states of a model's blocks at the response positions alone, taken by forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sparsepo_plugin.forward.activations import block_stack

Cut = Callable[[Tensor], Tensor]


class BlockStates:
    """Takes the outputs of all blocks but the last, whose normalised output the head's input is.

    Args:
      model: a transformers causal language model.

    Raises:
      UserError: no stack of blocks is found.
    """

    def __init__(self, model: nn.Module) -> None:
        self._blocks = list(block_stack(model))

    @contextmanager
    def taking(self, cut: Cut) -> Iterator[list[Tensor]]:
        """Within the context the model's forward pass fills the list, in block order.

        Args:
          cut: what to keep of an output [rows, seq, hidden], such as ResponseWindow.take.
        """
        states: list[Tensor] = []

        def hook(_: nn.Module, __: Any, output: Any) -> None:
            states.append(cut((output[0] if isinstance(output, tuple) else output).detach()))

        handles = [block.register_forward_hook(hook) for block in self._blocks[:-1]]
        try:
            yield states
        finally:
            for handle in handles:
                handle.remove()
