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
        self.positions = _positions(attention)
        self.cache: Any = DynamicCache(config=model.config)

    def step(self, ids: Tensor) -> Tensor:
        if self.cache.get_seq_length():
            self.attention = torch.cat([self.attention, self.attention.new_ones(len(ids), 1)], -1)
            self.positions = self.positions[:, -1:] + 1
        output = self.model(
            ids, attention_mask=self.attention, position_ids=self.positions, past_key_values=self.cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        return torch.log_softmax(output.logits[:, -1].float(), -1)


def _positions(attention: Tensor) -> Tensor:
    return (attention.cumsum(-1) - 1).clamp(min=0)


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
    start = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts])
    attention = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    stepper, generator = _Stepper(policy.eval(), attention), torch.Generator().manual_seed(seed)
    alive = torch.ones(len(start), dtype=torch.bool)
    ids, taken, said, lives = start, [], [], []
    for _ in range(length):
        log_p = stepper.step(ids)
        # One number a row and step, so that policies that hardly differ nearly agree in their samples.
        draw = torch.rand(len(ids), 1, generator=generator)
        ids = torch.where(alive[:, None], _pick(log_p, draw, temperature), pad)
        taken.append(ids)
        if reference is not None:
            said.append(log_p)
            lives.append(alive)
        if stop is not None:
            alive = alive & (ids[:, 0] != stop)
            if not alive.any():
                break
    tokens = torch.cat(taken, -1)
    if reference is None:
        return Samples(tokens, torch.zeros(len(start)))
    whole = torch.cat([start, tokens], -1)
    seen = torch.cat([attention, torch.ones_like(tokens)], -1)
    return Samples(tokens, _kl(reference, whole, seen, torch.stack(said, 1), torch.stack(lives, 1)))


def _pick(log_p: Tensor, draw: Tensor, temperature: float) -> Tensor:
    """Invert the distribution function at ``draw`` in [0, 1), [rows, 1]."""
    if temperature == 0:
        return log_p.argmax(-1, keepdim=True)
    p = log_p.exp() if temperature == 1 else torch.softmax(log_p / temperature, -1)
    total = p.cumsum(-1)
    return torch.searchsorted(total, draw * total[:, -1:], right=True).clamp(max=p.shape[-1] - 1)


def _kl(reference: PreTrainedModel, whole: Tensor, seen: Tensor, log_p: Tensor, lives: Tensor) -> Tensor:
    """KL(policy || reference) summed over every continuation, [rows]; 64 rows at a time.

    Args:
      reference: model.
      whole: prompts and continuations, [rows, width + length].
      seen: attention mask of the same shape.
      log_p: the policy's log-probabilities of every step, [rows, length, vocab].
      lives: whether a row had not ended before the step, [rows, length].
    """
    found, length = [], log_p.shape[1]
    for start in range(0, len(whole), 64):
        part = slice(start, start + 64)
        logits = reference(
            whole[part], attention_mask=seen[part], position_ids=_positions(seen[part]), use_cache=False,
            logits_to_keep=length + 1,
        ).logits[:, :-1]  # fmt: skip
        log_q = torch.log_softmax(logits.float(), -1)
        kl = (log_p[part].exp() * (log_p[part] - log_q)).sum(-1)
        found.append((kl * lives[part]).sum(-1))
    return torch.cat(found)
