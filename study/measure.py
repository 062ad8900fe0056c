"""What a policy does: samples and their rewards, held-out pairs, and where the weights lie."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sparsepo_plugin import metrics
from sparsepo_plugin.demo.language import auc
from sparsepo_plugin.types import LossOutput, Masks, TokenStats
from study.classifiers import NGrams, word_spans
from study.prepared import Prepared
from study.training import Run

IMPORTANT = 0.1  # share of response tokens called important: those whose word the reward weighs most
LEAST_SEEN = 8  # times a token must occur to stand in a list of most or least weighted tokens


class Scorer(Protocol):
    """Anything that scores texts."""

    def logits(self, texts: Sequence[str]) -> Tensor:
        """One number per text."""


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error over independent values."""
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


class HeldOut(NamedTuple):
    """Statistics of all held-out pairs, [2 * pairs, seq - 1]; rows: all chosen, then all rejected."""

    stats: TokenStats
    masks: Masks
    output: LossOutput


@torch.no_grad()
def held_out(run: Run, data: Prepared, part: int = 64) -> tuple[dict[str, float], list[HeldOut]]:
    """The project's own metrics on held-out pairs, and the parts they came from."""
    sums: dict[str, metrics.MetricSum] = {}
    parts = []
    for start in range(0, len(data), part):
        one = HeldOut(*run.forward(data.batch(range(start, min(len(data), start + part)))))
        sums = metrics.add(sums, metrics.pair_metrics(*one, run.plan.beta))
        parts.append(one)
    return metrics.ratios(sums), parts


SHOWN = {
    "accuracy": "accuracy",
    "accuracy_unmasked": "accuracy_unmasked",
    "reward_mask_sparsity": "sparsity",
    "kl_mask_sparsity": "kl_sparsity",
    "reward_mask_mean": "mask_mean",
}


def summary(values: dict[str, float]) -> dict[str, float]:
    """The metrics that go to the CSV, under the names they have there."""
    return {name: values[metric] for metric, name in SHOWN.items() if metric in values}


def token_texts(tokenizer: PreTrainedTokenizerFast, row: Sequence[int]) -> list[str]:
    """The text of every token of a row alone."""
    return [tokenizer.decode([token]) for token in row]


def importance(tokenizer: PreTrainedTokenizerFast, reward: NGrams, ids: Tensor) -> Tensor:
    """Absolute weight, in the reward, of the heaviest word that a token is part of, [rows, seq]."""
    found = torch.zeros(ids.shape)
    for row, tokens in enumerate(ids.tolist()):
        texts = token_texts(tokenizer, tokens)
        weight = [0.0] * sum(map(len, texts))
        for word, start, end in word_spans("".join(texts)):
            weight[start:end] = [abs(reward.word_weight(word))] * (end - start)
        place = 0
        for position, text in enumerate(texts):
            found[row, position] = max(weight[place : place + len(text)], default=0.0)
            place += len(text)
    return found


def finding(weights: Tensor, important: Tensor, response: Tensor) -> float:
    """AUC of important tokens by weight, over response tokens; all [rows, seq - 1]."""
    # Half of the tokens have importance 0, so that the threshold is no tie in practice.
    level = torch.quantile(important[response], 1 - IMPORTANT)
    flags = (important > level)[response]
    return auc(weights[response].tolist(), flags.tolist())


def by_token(
    tokenizer: PreTrainedTokenizerFast, targets: Tensor, weights: Tensor, response: Tensor, count: int
) -> list[dict[str, Any]]:
    """The most and the least weighted kinds of token.

    Args:
      tokenizer: turns ids to text.
      targets: the token that every position predicts, [rows, seq - 1].
      weights: same shape.
      response: true on response tokens, same shape.
      count: length of either list.
    """
    sums: dict[int, list[float]] = defaultdict(list)
    for token, weight in zip(targets[response].tolist(), weights[response].tolist()):
        sums[token].append(weight)
    means = sorted(
        ((math.fsum(v) / len(v), token, len(v)) for token, v in sums.items() if len(v) >= LEAST_SEEN),
        reverse=True,
    )
    rows = []
    for end, chosen in (("most", means[:count]), ("least", means[::-1][:count])):
        for rank, (mean, token, seen) in enumerate(chosen, 1):
            text = tokenizer.decode([token]).replace("\n", "\\n")
            rows.append({"end": end, "rank": rank, "token": text, "weight": mean, "seen": seen})
    return rows
