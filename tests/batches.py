"""Random preference batches for the tests: logits, ragged responses, sparse masks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsepo_plugin.forward.statistics.reference import token_stats
from sparsepo_plugin.losses.sparsepo import SparsePOOptions, sparsepo
from sparsepo_plugin.objective import masked_scores
from sparsepo_plugin.types import LossOutput, Masks, ReferenceShape, TokenStats

BETA = 0.3


class Batch(NamedTuple):
    """Inputs of one loss: logits [rows, seq, vocab], labels [rows, seq], masks [rows, seq - 1]."""

    policy: Tensor
    reference: Tensor
    labels: Tensor
    reward_mask: Tensor
    kl_mask: Tensor

    def stats(self) -> TokenStats:
        return token_stats(self.policy, self.reference, self.labels)

    def loss(self, given: Masks | None = None, **options: object) -> LossOutput:
        masks = Masks(self.reward_mask, self.kl_mask) if given is None else given
        chosen = SparsePOOptions(**{"masks": "independent", "normalise": "none", **options})  # type: ignore[arg-type]
        return sparsepo(self.stats(), masks, BETA, chosen)

    def map(self, function: object) -> Batch:
        return Batch(*(function(value) for value in self))  # type: ignore[operator]


def random_batch(
    seed: int,
    *,
    pairs: int = 2,
    seq: int = 7,
    vocab: int = 11,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Batch:
    """Draw a batch; every response has at least one token, a third of the mask values is 0."""
    rng = torch.Generator().manual_seed(seed)
    rows = 2 * pairs

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64)

    policy, reference = (scale * normal(rows, seq, vocab) for _ in range(2))
    labels = torch.randint(vocab, (rows, seq), generator=rng)
    first = torch.randint(1, seq, (rows, 1), generator=rng)
    last = first + torch.randint(seq, (rows, 1), generator=rng)
    positions = torch.arange(seq)
    labels = labels.masked_fill((positions < first) | (positions > last), -100)
    reward_mask, kl_mask = (torch.relu(normal(rows, seq - 1) + 0.4) for _ in range(2))
    return Batch(policy.to(dtype), reference.to(dtype), labels, reward_mask.to(dtype), kl_mask.to(dtype))


class Extras:
    """What some losses need besides: the data's weights, a third of them missing, and the policy's states."""

    def __init__(self, batch: Batch, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        shape = batch.reward_mask.shape
        weights = torch.rand(shape, generator=rng, dtype=torch.float64)
        self.token_weights = weights.masked_fill(torch.rand(shape, generator=rng) < 0.3, torch.nan)
        self.policy_states = torch.randn(*shape, 5, generator=rng, dtype=torch.float64)
        self.entropy = torch.rand(shape, generator=rng, dtype=torch.float64)

    def map(self, function: object) -> Extras:
        """Apply a function to every tensor."""
        mapped = object.__new__(Extras)
        mapped.__dict__ = {name: function(value) for name, value in vars(self).items()}  # type: ignore[operator]
        return mapped


def logit_of(batch: Batch, masks: Masks) -> Tensor:
    """beta times the score difference of every pair, differentiable, [pairs]."""
    scores = masked_scores(batch.stats(), masks)
    return BETA * (scores.chosen - scores.rejected)


def learned(shape: ReferenceShape, seed: int = 0, **options: object) -> nn.Module:
    """Build the mask module that these options of SparsePO describe, not normalised unless they say so."""
    plain = {"normalise": "none", **options}
    return SparsePOOptions(**plain).build_masks(shape, seed)  # type: ignore[arg-type]


def by_term(module: nn.Module) -> dict[str, nn.Module]:
    """The masks inside a mask module by the term they weigh: common, or reward and kl."""
    (terms,) = (child for child in module.children() if isinstance(child, nn.ModuleDict))
    return dict(terms.items())
