"""Preference pairs sampled from a model and labelled by a classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from study.language import Language
from study.measure import Scorer
from study.prepared import TokenPair
from study.sampling import sample

SAMPLES = 4


def beginnings(language: Language, texts: Sequence[str], tokens: int) -> list[list[int]]:
    """The first tokens of every text that is longer."""
    rows = language.tokenizer([text[: 12 * tokens] for text in texts], add_special_tokens=False)["input_ids"]
    return [row[:tokens] for row in rows if len(row) > tokens]


def texts_of(language: Language, prompts: Sequence[Sequence[int]], tokens: torch.Tensor) -> list[str]:
    """Prompt and continuation as one text each."""
    rows = [[*prompt, *row] for prompt, row in zip(prompts, tokens.tolist())]
    found: list[str] = language.tokenizer.batch_decode(rows, skip_special_tokens=True)
    return found


def label(
    language: Language, judge: Scorer, prompts: Sequence[list[int]], length: int, seed: int, part: int = 400
) -> list[TokenPair]:
    """Of SAMPLES continuations of every prompt, the best against the worst; ties give no pair."""
    found = []
    for start in range(0, len(prompts), part):
        some = list(prompts[start : start + part])
        draws = [
            sample(language.model, None, some, length=length, seed=seed + 31 * start + turn).tokens
            for turn in range(SAMPLES)
        ]
        scores = torch.stack([judge.logits(texts_of(language, some, tokens)) for tokens in draws])
        best, worst = scores.argmax(0).tolist(), scores.argmin(0).tolist()
        for row, prompt in enumerate(some):
            if scores[best[row], row] > scores[worst[row], row]:
                sides = (draws[best[row]][row].tolist(), draws[worst[row]][row].tolist())
                found.append(TokenPair(prompt, *sides))
    return found
