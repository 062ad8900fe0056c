"""One model's part in the statistics: states and head ready for products, and the gradients of both."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.forward.head_weights import HeadWeights, LogitMap
from sparsepo_plugin.forward.statistics import shapes
from sparsepo_plugin.forward.statistics.rows import Tile


class Side(NamedTuple):
    """One model's states and head.

    Attributes:
      hidden: final hidden states, [n, hidden], in what products are computed in.
      weight: the head's matrix, [vocab, hidden], in the dtype it has.
      bias: [vocab], in float32 or better, or None.
      logit_map: what the model does after its head.
      dtype: the format that the product's factors have, or are rounded to; on a CPU, whose products round
        their results to it, they are then multiplied in float32.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    logit_map: LogitMap
    dtype: torch.dtype

    @classmethod
    def of(cls, hidden: Tensor, head: HeadWeights, logit_map: LogitMap, dtype: torch.dtype | None) -> Side:
        """Prepare a model's part; ``dtype`` is what autocast multiplied in when the model ran."""
        compute = shapes.compute_dtype(hidden.dtype)
        bias = None if head.bias is None else head.bias.detach().to(compute)
        narrow = shapes.narrowest(hidden.dtype, head.weight.dtype, dtype)
        states, weight = hidden.detach().to(narrow), head.weight.detach()
        if hidden.device.type == "cpu":
            return cls(states.to(compute), weight, bias, logit_map, narrow)
        return cls(states, weight.to(narrow), bias, logit_map, narrow)

    def rows_of_weight(self, part: slice) -> Tensor:
        """The head's rows of some of the vocabulary, as ``hidden`` is multiplied with them."""
        return self.weight[part].to(self.dtype).to(self.hidden.dtype)

    def tile(self, tokens: slice, part: slice) -> Tensor:
        """Mapped logits of some positions and some of the vocabulary, in max(float32, dtype)."""
        with shapes.exact_in_bfloat16(self.on_cpu_in_bfloat16()):
            logits = shapes.product(self.hidden[tokens], self.rows_of_weight(part).t())
        if self.bias is not None:
            logits += self.bias[part]
        return self.logit_map.apply_(logits)

    def on_cpu_in_bfloat16(self) -> bool:
        """Whether float32 matrices hold bfloat16 numbers here."""
        return self.hidden.device.type == "cpu" and self.dtype == torch.bfloat16


def both(policy: Side, reference: Side | None, tokens: slice, part: slice) -> Tile:
    """The same tile of both models."""
    return Tile(policy.tile(tokens, part), None if reference is None else reference.tile(tokens, part))


class Gradients:
    """Gradients of hidden states, weight and bias, added up slice by slice of the vocabulary.

    Products take the policy's ``dtype`` and are added up in float32 or better.

    Args:
      policy: what the gradients are of.
      leaves: hidden states, weight and bias as they were given; gradients have their dtypes.
      needed: which of the leaves get one.

    Attributes:
      dtype: what ``add`` wants the raw logits' gradient in.
    """

    def __init__(
        self, policy: Side, leaves: tuple[Tensor, Tensor, Tensor | None], needed: tuple[bool, ...]
    ) -> None:
        hidden, weight, bias = leaves
        self._policy, self._result = policy, hidden.dtype
        self.dtype = policy.hidden.dtype
        compute = shapes.compute_dtype(hidden.dtype)
        self._hidden = hidden.new_zeros(hidden.shape, dtype=compute) if needed[0] else None
        self._weight = torch.empty_like(weight) if needed[1] else None
        self._bias = None if bias is None or not needed[2] else torch.empty_like(bias)
        self._states = policy.hidden
        if self._weight is not None and policy.dtype == weight.dtype:
            # The product over all tokens is final: rounded to the weight's dtype as it comes out.
            self._states = policy.hidden.to(policy.dtype)

    def add(self, grad: Tensor, part: slice) -> None:
        """Add what the raw logits' gradient of a slice, [n, slice], gives."""
        if self._hidden is not None:
            with shapes.exact_in_bfloat16(self._policy.on_cpu_in_bfloat16()):
                shapes.add_product(self._hidden, grad, self._policy.rows_of_weight(part))
        if self._weight is not None and self._states.dtype == self._weight.dtype:
            torch.mm(grad.to(self._states.dtype).t(), self._states, out=self._weight[part])
        elif self._weight is not None:
            self._weight[part] = shapes.product(grad.t(), self._states)
        if self._bias is not None:
            self._bias[part] = grad.sum(0, dtype=shapes.compute_dtype(grad.dtype))

    def result(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients in the dtypes of what they belong to."""
        hidden = None if self._hidden is None else self._hidden.to(self._result)
        return hidden, self._weight, self._bias
