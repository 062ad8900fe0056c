"""Sample continuations, with the exact KL(policy || reference) of every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


class Samples(NamedTuple):
    """Sampled continuations.

    Attributes:
      tokens: continuations without the prompts, [rows, length]; pad after the end token.
      kl: KL(policy || reference) summed over each continuation, [rows], nats; 0 without a reference. Every
        summand is exact over the vocabulary, so that only the path is sampled.
    """

    tokens: Tensor
    kl: Tensor


class _Stepper:
    """Log-probabilities of the next token, one token at a time."""

    def __init__(self, model: PreTrainedModel, attention: Tensor) -> None:
        self.model, self.attention = model, attention
        self.positions = (attention.cumsum(-1) - 1).clamp(min=0)
        self.cache: Any = DynamicCache(config=model.config)

    def step(self, ids: Tensor) -> Tensor:
        if ids.shape[1] == 1:
            self.attention = torch.cat([self.attention, self.attention.new_ones(len(ids), 1)], -1)
            self.positions = self.positions[:, -1:] + 1
        output = self.model(
            ids, attention_mask=self.attention, position_ids=self.positions, past_key_values=self.cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        return torch.log_softmax(output.logits[:, -1].float(), -1)


@torch.no_grad()
def sample(
    policy: PreTrainedModel,
    reference: PreTrainedModel | None,
    prompts: Sequence[Sequence[int]],
    *,
    length: int,
    seed: int,
    temperature: float = 1.0,
    stop: int | None = None,
    pad: int = 0,
) -> Samples:
    """Sample one continuation of every prompt.

    Args:
      policy: samples; at temperature 0 it takes the likeliest token.
      reference: the KL is measured to it, at temperature 1 along the sampled path; None: no KL.
      prompts: token ids; padded on the left here.
      length: tokens of every continuation.
      seed: of the draws; one seed gives two policies the same random numbers.
      temperature: of the sampling.
      stop: end token; what follows it is pad and counts nothing. None: nothing ends early.
      pad: id that fills.
    """
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts])
    attention = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    models = [policy] if reference is None else [policy, reference]
    steppers = [_Stepper(model.eval(), attention) for model in models]
    generator = torch.Generator().manual_seed(seed)
    alive = torch.ones(len(ids), dtype=torch.bool)
    kl, taken = torch.zeros(len(ids)), []
    for _ in range(length):
        log_p, *others = [stepper.step(ids) for stepper in steppers]
        for log_q in others:
            kl += torch.where(alive, (log_p.exp() * (log_p - log_q)).sum(-1), 0.0)
        if temperature > 0:
            # Gumbel's trick: equal noise gives policies that hardly differ nearly equal samples.
            noise = torch.empty_like(log_p).exponential_(generator=generator).log_()
            ids = (log_p / temperature - noise).argmax(-1, keepdim=True)
        else:
            ids = log_p.argmax(-1, keepdim=True)
        ids = torch.where(alive[:, None], ids, pad)
        taken.append(ids)
        if stop is not None:
            alive &= ids[:, 0] != stop
            if not alive.any():
                break
    return Samples(torch.cat(taken, -1), kl)
