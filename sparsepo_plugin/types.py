"""The nouns a loss speaks: token statistics, masks, loss output.

Rows are responses: the first half of the batch axis holds the chosen, the second half the rejected
responses of the same pairs. Position t belongs to the token at t + 1, which the state at t predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Split = Literal["train", "eval"]
Side = Literal["chosen", "rejected"]
AnchorWeight = Literal["uniform", "complement"]


class TokenStats(NamedTuple):
    """What the policy and the reference say about every response token.

    Attributes:
      policy_logps: log pi(y_t | y_<t), [2 * pairs, seq - 1], nats; 0 outside the response.
      reference_logps: the same of the reference, or None for losses without a reference.
      token_kl: KL(reference || policy) over the full vocabulary, same shape, nats, >= 0; None if not needed.
      response_mask: true on response tokens, same shape, bool.
      token_weights: numbers that the data give, same shape; nan on tokens to which they give none; None if
        not needed.
      entropy: of pi(. | y_<t) over the full vocabulary, same shape, nats, no gradient; None if not needed.
      policy_states: final hidden states that predict the tokens, [2 * pairs, seq - 1, hidden], no gradient;
        None if not needed.
    """

    policy_logps: Tensor
    reference_logps: Tensor | None
    token_kl: Tensor | None
    response_mask: Tensor
    token_weights: Tensor | None = None
    entropy: Tensor | None = None
    policy_states: Tensor | None = None

    def rows(self, keep: Tensor) -> TokenStats:
        """Select rows (responses); ``keep`` indexes or masks the batch axis."""
        selected: list[Any] = [None if value is None else value[keep] for value in self]
        return TokenStats(*selected)


class Masks(NamedTuple):
    """Weights of the two terms of the objective.

    Attributes:
      reward_mask: weight m_u of every log-ratio, [2 * pairs, seq - 1].
      kl_mask: weight m_d of every token KL, same shape; None when the loss has no KL term.
    """

    reward_mask: Tensor
    kl_mask: Tensor | None

    def rows(self, keep: Tensor) -> Masks:
        """Select rows (responses); ``keep`` indexes or masks the batch axis."""
        return Masks(self.reward_mask[keep], None if self.kl_mask is None else self.kl_mask[keep])


class LossOutput(NamedTuple):
    """Result of a preference loss, one entry per pair; the caller takes the mean.

    Attributes:
      losses: [pairs], differentiable.
      logits: the argument z of -log sigmoid(z) (or its counterpart), [pairs], detached.
      chosen_rewards: implicit reward of the chosen response, [pairs], detached.
      rejected_rewards: of the rejected response; chosen - rejected equals ``logits``.
      weights: what the loss itself weighed the log-ratios by, [2 * pairs, seq - 1], detached; None where it
        used the masks it was given. Metrics and token records show it in place of the reward mask.
    """

    losses: Tensor
    logits: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor
    weights: Tensor | None = None

    def rows(self, pairs: Tensor) -> LossOutput:
        """Select pairs; ``pairs`` masks them."""
        by_pair = (
            self.losses[pairs],
            self.logits[pairs],
            self.chosen_rewards[pairs],
            self.rejected_rewards[pairs],
        )
        return LossOutput(*by_pair, None if self.weights is None else self.weights[torch.cat([pairs, pairs])])

    def shown(self, masks: Masks) -> Masks:
        """The masks with which the loss worked, given those that it was given."""
        return masks if self.weights is None else Masks(self.weights, masks.kl_mask)


class ReferenceState(NamedTuple):
    """What a mask source may read of the reference model; never carries a gradient.

    Attributes:
      hidden_states: outputs of blocks 1..L, the last one after the final normalisation (the order of
        transformers without the embedding), each [2 * pairs, seq, hidden]; empty if not needed.
      response_mask: true on response tokens, [2 * pairs, seq - 1], bool.
      token_ids: input tokens, [2 * pairs, seq]; None where nobody needs them.
      activations: mean over the features of every recorded site, by name, each [2 * pairs, seq].
      token_weights: as in TokenStats.
    """

    hidden_states: tuple[Tensor, ...]
    response_mask: Tensor
    token_ids: Tensor | None = None
    activations: Mapping[str, Tensor] | None = None
    token_weights: Tensor | None = None


@dataclass(frozen=True)
class ReferenceShape:
    """Sizes of the reference model, from which a mask module is built.

    Attributes:
      hidden_size: width of a hidden state.
      layers: number of blocks.
      layer_norm_eps: epsilon of the model's own normalisation layers.
      initializer_range: standard deviation of the model's own weight initialisation.
    """

    hidden_size: int
    layers: int
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02


@dataclass(frozen=True)
class Needs:
    """Work that a loss asks the adapter to do; what is not asked for is not computed.

    Attributes:
      reference: run the reference model.
      token_kl: KL(reference || policy) over the full vocabulary for every response token.
      hidden_states: hidden states of all blocks of the reference.
      activations: groups of reference activations whose feature means are recorded, such as ("mlp", "attn").
      token_weights: the data's column of weights.
      entropy: the policy's entropy at every response token.
      policy_states: the policy's final hidden states.
    """

    reference: bool = True
    token_kl: bool = False
    hidden_states: bool = False
    activations: tuple[str, ...] = ()
    token_weights: bool = False
    entropy: bool = False
    policy_states: bool = False
