"""The statistics written down plainly: all logits, torch's own log-softmax, autograd."""

from __future__ import annotations

from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.forward.statistics import HeadWeights, LogitMap, ReferenceRows

PLAIN = LogitMap()


class Case(NamedTuple):
    """Inputs of both ways; policy tensors are leaves."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    reference_hidden: Tensor
    reference_weight: Tensor
    reference_bias: Tensor | None

    def leaves(self) -> list[Tensor]:
        return [value for value in self[:3] if value is not None and value.requires_grad]

    def head(self) -> HeadWeights:
        return HeadWeights(self.weight, self.bias)

    def reference(self, logit_map: LogitMap = PLAIN, opened: list[str] | None = None) -> ReferenceRows:
        @contextmanager
        def weights():
            if opened is not None:
                opened.append("open")
            yield HeadWeights(self.reference_weight, self.reference_bias)

        return ReferenceRows(self.reference_hidden, weights, logit_map, collective=opened is not None)


def case(
    count: int,
    vocab: int,
    width: int,
    *,
    dtype=torch.float64,
    bias=True,
    other_width=None,
    frozen=False,
    seed=0,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, generator=generator, dtype=torch.float64) * scale).to(dtype)

    other = other_width or width
    hidden, weight = draw(count, width).requires_grad_(), draw(vocab, width, scale=width**-0.5)
    shift = draw(vocab) if bias else None
    if not frozen:
        weight.requires_grad_()
        if shift is not None:
            shift.requires_grad_()
    targets = torch.randint(vocab, (count,), generator=generator)
    return Case(
        hidden, weight, shift, targets, draw(count, other), draw(vocab, other, scale=other**-0.5),
        draw(vocab) if bias else None,
    )  # fmt: skip


def in_float64(given: Case) -> Case:
    """The same numbers in double precision, leaves again."""
    return Case(
        *(
            value
            if value is None or not value.is_floating_point()
            else value.detach().double().requires_grad_(value.requires_grad)
            for value in given
        )
    )


def logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, logit_map: LogitMap) -> Tensor:
    raw = hidden @ weight.T
    raw = raw if bias is None else raw + bias
    scaled = raw * logit_map.scale
    return scaled if logit_map.cap is None else logit_map.cap * torch.tanh(scaled / logit_map.cap)


def statistics(given: Case, logit_map: LogitMap = PLAIN, other: LogitMap = PLAIN):
    """(log pi(y), log ref(y), KL), by the textbook."""
    log_p = logits(given.hidden, given.weight, given.bias, logit_map).log_softmax(-1)
    log_q = logits(given.reference_hidden, given.reference_weight, given.reference_bias, other).log_softmax(
        -1
    )
    pick = given.targets[:, None]
    return (
        log_p.gather(1, pick)[:, 0],
        log_q.gather(1, pick)[:, 0],
        (log_q.exp() * (log_q - log_p)).sum(-1),
    )
