"""Sampling inside transformers' greedy loop, every row with random numbers of its own.

`model.generate(do_sample=True)` draws for a whole batch from one generator, so a text depends on its
neighbours in the batch. Here each row has its own stream, and a token is found by inverting the
distribution function at one uniform number: equal seeds give equal texts, whatever else is in the batch, up
to the last bits of the logits (padding changes those).
"""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eval_harness.models.finite import check_finite
from eval_harness.models.thinking import Thinking


def nucleus(logits: Tensor, temperatures: Tensor, top_p: float) -> Tensor:
    """Probabilities after temperature and nucleus, not normalised again.

    Args:
      logits: [batch, vocabulary].
      temperatures: above 0, [batch].
      top_p: mass that the kept tokens reach at least; 1 keeps all.

    Returns:
      [batch, vocabulary], float64; 0 outside the nucleus.
    Source: Holtzman et al. 2020, arXiv 1904.09751.
    """
    probabilities = (logits.double() / temperatures.double()[:, None]).softmax(-1)
    if top_p >= 1:
        return probabilities
    ranked, order = probabilities.sort(stable=True, dim=-1, descending=True)
    # A token belongs to the nucleus when those before it do not reach the mass.
    outside = ranked.cumsum(-1) - ranked >= top_p
    return probabilities.masked_fill(outside.scatter(-1, order, outside), 0.0)


def invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The first token whose cumulated probability exceeds the uniform number.

    Args:
      probabilities: [batch, vocabulary], any positive total.
      uniforms: in [0, 1), [batch].

    Returns:
      Token ids, [batch].
    """
    cumulated = probabilities.cumsum(-1)
    targets = uniforms[:, None].to(cumulated) * cumulated[:, -1:]
    tokens = torch.searchsorted(cumulated, targets, right=True)[:, 0]
    # A uniform number just below 1 may round to the total: the last token with any probability.
    last = cumulated.shape[-1] - 1 - (probabilities > 0).flip(-1).to(torch.int8).argmax(-1)
    return torch.minimum(tokens, last)


class RowSampler:
    """A logits processor that leaves one finite score per row: the sampled token, or the likeliest at 0."""

    def __init__(self, temperatures: list[float], seeds: list[int], top_p: float) -> None:
        """Bind rows to temperatures and seeds, both [batch]."""
        self._temperatures = torch.tensor(temperatures, dtype=torch.float64)
        self._streams = [random.Random(seed) for seed in seeds]
        self._top_p = top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [batch, vocabulary] in; the same shape out, -inf but for the chosen token."""
        check_finite(scores.amax(-1), "the scores of the next token")
        chosen = scores.argmax(-1)
        warm = self._temperatures.to(scores.device) > 0
        uniforms = torch.tensor([stream.random() for stream in self._streams], device=scores.device)
        if bool(warm.any()):
            kept = nucleus(scores[warm], self._temperatures.to(scores.device)[warm], self._top_p)
            chosen[warm] = invert(kept, uniforms[warm])
        return torch.full_like(scores, float("-inf")).scatter(-1, chosen[:, None], 0.0)


class StopStrings:
    """A stopping criterion per row: the newly written text holds one of the stop strings."""

    def __init__(
        self, text: Callable[[list[int]], str], stop: tuple[str, ...], prompt_length: int, thinking: Thinking
    ) -> None:
        """`text` decodes token ids, `prompt_length` is that of the padded prompts, in tokens."""
        self._text, self._stop, self._start, self._thinking = text, stop, prompt_length, thinking
        # A token holds at least one byte, and a character has four at most.
        self._tail = 4 * max(len(mark) for mark in stop) + 4

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Which rows are done, bool [batch]."""
        begin = self._start
        if not self._thinking.strip:  # else the whole text tells whether the answer has begun
            begin = max(begin, input_ids.shape[1] - self._tail)
        texts = [self._thinking.answer(self._text(row)) or "" for row in input_ids[:, begin:].tolist()]
        return torch.tensor([any(mark in t for mark in self._stop) for t in texts], device=input_ids.device)
