"""Token numbers for the planted benchmark's weighted methods: log-ratios of guides, which are DPO policies.

Cross-fitted, a guide of one half of the training pairs gives the numbers of the other half, for weights from
a model that has seen the very pair mislead; otherwise one guide that saw all pairs gives all. Held-out pairs
get theirs from the first guide.
"""

from __future__ import annotations

import functools

import torch

from benchmarks.planted_room import Experiment, Scores, batch_of, experiment, fit, lab
from sparsepo_plugin.demo import language
from sparsepo_plugin.forward.statistics.reference import token_stats

GUIDE = ("dpo", 0.5, {})  # loss, beta, options
_AT_ONCE = 50


def scores(seed: int, loss: str, *, crossed: bool) -> Scores:
    """Numbers of every pair's tokens: log-ratios, or their sigmoid for criticaldpo, which takes [0, 1].

    Args:
      seed: of data, reference and guides.
      loss: that reads them.
      crossed: cross-fitted.
    """
    ratios = _ratios(seed, crossed)
    if loss != "criticaldpo":
        return ratios
    return {
        pair: (_probabilities(chosen), _probabilities(rejected))
        for pair, (chosen, rejected) in ratios.items()
    }


def _probabilities(numbers: list[float]) -> list[float]:
    values: list[float] = torch.tensor(numbers).sigmoid().tolist()
    return values


@functools.lru_cache(maxsize=2)
def _ratios(seed: int, crossed: bool) -> Scores:
    room = lab(seed)
    halves = [room.train[::2], room.train[1::2]] if crossed else [room.train]
    guides = [_guide(seed, half) for half in halves]
    scored = _scored(guides[0], room.held_out)
    for number, half in enumerate(halves):
        scored |= _scored(guides[number - 1], half)
    return scored


def _guide(seed: int, pool: list[language.Pair]) -> Experiment:
    test = experiment(*GUIDE, seed)
    fit(test, pool, lambda step: None)
    test.policy.eval().requires_grad_(False)
    return test


@torch.no_grad()
def _scored(guide: Experiment, pairs: list[language.Pair]) -> Scores:
    found: Scores = {}
    for start in range(0, len(pairs), _AT_ONCE):
        some = pairs[start : start + _AT_ONCE]
        ids, labels, _ = batch_of(guide.room.tokenizer, some)
        attention = (ids != guide.room.tokenizer.pad_token_id).long()
        logits = [m(ids, attention_mask=attention).logits for m in (guide.policy, guide.room.reference)]
        guide.room.recorder.take()
        stats = token_stats(*logits, labels, with_kl=False)
        assert stats.reference_logps is not None
        rows = [
            (policy - reference)[on].tolist()
            for policy, reference, on in zip(stats.policy_logps, stats.reference_logps, stats.response_mask)
        ]
        found |= dict(zip(some, zip(rows[: len(some)], rows[len(some) :])))
    return found
