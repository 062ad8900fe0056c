"""A reward on MiniLM's states, as a plain classifier folder that `eval-harness --judge reward` loads.

The encoder stays as published; pooler and score on top of its first token's state are trained, on people's
pairs by Bradley and Terry's likelihood or on labelled texts. Frozen states are computed once: training
takes seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, dropout, softplus
from tqdm import tqdm

from study.data import Pair, Review

LENGTH = 192  # tokens read of prompt and response together; longer texts lose their beginning
PASSES, BATCH, RATE, DECAY = 30, 64, 1e-3, 0.05
NOISE = 0.3  # dropout on the states: a few thousand pairs are learned by heart without it


class RewardHead:
    """A classifier with one output.

    Args:
      folder: of an encoder, which gets a new score, or of a classifier written by `save`.
      length: tokens read of a text.
    """

    def __init__(self, folder: Path, length: int = LENGTH) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.length = length
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right", truncation_side="left")
        torch.manual_seed(0)  # of a new score
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()

    @torch.no_grad()
    def states(self, texts: Sequence[str], batch: int = 16) -> Tensor:
        """State of the first token behind the last layer, [texts, hidden]; texts of like length together."""
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found = torch.zeros(len(texts), self.model.config.hidden_size)
        for start in tqdm(range(0, len(order), batch), desc="reward head: states", mininterval=2):
            places = order[start : start + batch]
            rows = self.tokenizer(
                [texts[place] for place in places], padding=True, truncation=True, max_length=self.length,
                return_tensors="pt",
            )  # fmt: skip
            found[places] = self.model.bert(**rows).last_hidden_state[:, 0]
        return found

    def score(self, found: Tensor) -> Tensor:
        """Rewards of states, [texts]; the pooler reads the first token, so that one is enough."""
        rewards: Tensor = self.model.classifier(self.model.bert.pooler(found[:, None]))[:, 0]
        return rewards

    @torch.no_grad()
    def logits(self, texts: Sequence[str]) -> Tensor:
        """Rewards of texts, [texts]."""
        return self.score(self.states(texts))

    def save(self, folder: Path) -> None:
        """Write a plain folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def fit(
        self, rows: int, loss: Callable[[Tensor], Tensor], right: Callable[[], float], seed: int
    ) -> float:
        """Train pooler and score; the pass that is right most often on validation data is kept.

        Args:
          rows: number of examples.
          loss: of the examples of given numbers.
          right: share of validation data that is right.
          seed: of order and dropout.

        Returns:
          The highest share, which chose the pass and is flattered by it.
        """
        parts = (self.model.bert.pooler, self.model.classifier)
        weights = [weight for part in parts for weight in part.parameters()]
        optimizer = torch.optim.AdamW(weights, RATE, weight_decay=DECAY)
        torch.manual_seed(seed)
        best, kept = -1.0, None
        for _ in range(PASSES):
            for some in torch.randperm(rows).split(BATCH):
                optimizer.zero_grad()
                loss(some).backward()
                optimizer.step()
            if (now := right()) > best:
                best, kept = now, copy.deepcopy([part.state_dict() for part in parts])
        for part, state in zip(parts, kept or []):
            part.load_state_dict(state)
        return best


def texts_of(pairs: Sequence[Pair]) -> list[str]:
    """All chosen texts with their prompts, then all rejected ones, as the judge sees them."""
    return [pair.prompt + pair.chosen for pair in pairs] + [pair.prompt + pair.rejected for pair in pairs]


@torch.no_grad()
def pairs_right(head: RewardHead, found: Tensor) -> float:
    """Share of pairs whose chosen text scores higher; a tie counts one half.

    Args:
      head: scores.
      found: states, [2 * pairs, hidden], chosen first.
    """
    chosen, rejected = head.score(found).chunk(2)
    return float(((chosen > rejected).float() + 0.5 * (chosen == rejected).float()).mean())


def train_on_pairs(
    head: RewardHead, pairs: Sequence[Pair], valid: Sequence[Pair], seed: int
) -> dict[str, float]:
    """Fit a head to people's pairs in place; its shares of training and validation pairs."""
    found, held = head.states(texts_of(pairs)), head.states(texts_of(valid))
    chosen, rejected = found.chunk(2)

    def loss(some: Tensor) -> Tensor:
        better, worse = head.score(dropout(torch.cat([chosen[some], rejected[some]]), NOISE)).chunk(2)
        return softplus(worse - better).mean()

    best = head.fit(len(chosen), loss, lambda: pairs_right(head, held), seed)
    return {"pairs": float(len(pairs)), "train": pairs_right(head, found), "validation": best}


def train_on_labels(
    head: RewardHead, texts: Sequence[Review], valid: Sequence[Review], seed: int
) -> dict[str, float]:
    """Fit a head to labelled texts in place; its shares of training and validation texts."""
    found, held = (head.states([text.text for text in part]) for part in (texts, valid))
    labels, wanted = (torch.tensor([text.positive for text in part]) for part in (texts, valid))

    def loss(some: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(head.score(dropout(found[some], NOISE)), labels[some].float())

    @torch.no_grad()
    def right(states: Tensor, truth: Tensor) -> float:
        return float(((head.score(states) > 0) == truth).float().mean())

    best = head.fit(len(texts), loss, lambda: right(held, wanted), seed)
    return {"texts": float(len(texts)), "train": right(found, labels), "validation": best}
