"""Pairs as tensors, with all that training needs of the reference computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sparsepo_plugin.forward.activations import Recorder, find_sites
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX
from sparsepo_plugin.types import ReferenceState
from study.language import Language


class TokenPair(NamedTuple):
    """A preference pair as token ids."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class Batch(NamedTuple):
    """Some pairs, chosen rows first, padded on the right (a causal model needs no mask for that).

    Attributes:
      ids: [2 * pairs, seq].
      labels: ids on the responses, else -100, same shape.
      reference_logits: [2 * pairs, seq, vocab].
      state: what masks read of the reference.
      token_weights: numbers of the response tokens, [2 * pairs, seq - 1]; None where the pairs have none.
    """

    ids: Tensor
    labels: Tensor
    reference_logits: Tensor
    state: ReferenceState
    token_weights: Tensor | None = None


class Prepared(NamedTuple):
    """All pairs; rows are chosen and rejected of pair 0, of pair 1, and so on.

    Attributes:
      ids: [2 * n, seq].
      labels: same shape.
      hidden: per block [2 * n, seq, hidden]; the last one is normalised, so that the head turns it to logits.
      activations: feature means by site, each [2 * n, seq].
      head: weight of the output layer, [vocab, hidden].
      token_weights: as in TokenStats, [2 * n, seq - 1], or None.
    """

    ids: Tensor
    labels: Tensor
    hidden: tuple[Tensor, ...]
    activations: dict[str, Tensor]
    head: Tensor
    token_weights: Tensor | None = None

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.ids) // 2

    def weighed(self, numbers: Tensor | None) -> Prepared:
        """The same pairs with these token weights (``_replace`` would ask for the length)."""
        return Prepared(self.ids, self.labels, self.hidden, self.activations, self.head, numbers)

    def batch(self, pairs: Sequence[int]) -> Batch:
        """The pairs of given places, cut to their longest row."""
        rows = torch.tensor([2 * p for p in pairs] + [2 * p + 1 for p in pairs])
        labels = self.labels[rows]
        # Every row ends with its response.
        end = int((labels != IGNORE_INDEX).nonzero()[:, 1].max()) + 1
        labels = labels[:, :end]
        hidden = tuple(layer[rows, :end] for layer in self.hidden)
        seen = {name: value[rows, :end] for name, value in self.activations.items()}
        ids = self.ids[rows, :end]
        weights = None if self.token_weights is None else self.token_weights[rows, : end - 1]
        state = ReferenceState(hidden, labels[:, 1:] != IGNORE_INDEX, ids, seen, weights)
        return Batch(ids, labels, hidden[-1] @ self.head.T, state, weights)


@torch.no_grad()
def prepare(language: Language, pairs: Sequence[TokenPair], part: int = 128) -> Prepared:
    """Run the reference over all pairs, ``part`` rows at a time."""
    rows = [(pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected)]
    pad = int(language.model.config.pad_token_id)
    ids = pad_sequence([torch.tensor(p + r) for p, r in rows], batch_first=True, padding_value=pad)
    labels = pad_sequence(
        [torch.tensor([IGNORE_INDEX] * len(p) + r) for p, r in rows],
        batch_first=True,
        padding_value=IGNORE_INDEX,
    )
    recorder = Recorder(language.model, find_sites(language.model))
    hidden: list[tuple[Tensor, ...]] = []
    seen: list[dict[str, Tensor]] = []
    for start in range(0, len(ids), part):
        output = language.model(ids[start : start + part], output_hidden_states=True, use_cache=False)
        hidden.append(output.hidden_states[1:])
        seen.append(recorder.take())
    recorder.remove()
    return Prepared(
        ids,
        labels,
        tuple(torch.cat(layer) for layer in zip(*hidden)),
        {name: torch.cat([one[name] for one in seen]) for name in seen[0]},
        language.model.get_output_embeddings().weight.detach(),
    )
