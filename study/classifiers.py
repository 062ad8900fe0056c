"""Two sentiment classifiers of different kinds, trained on different data: a reward and a check on it.

The first, words and word pairs with one weight each, trained on reviews, labels the pairs and is the reward.
The second, a convolution over word embeddings trained on other sentences, has no part in training: a policy
that only exploits the first does not please the second.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from study.data import Review

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[!?.,]")
_PAD, _UNKNOWN = 0, 1


def words(text: str) -> list[str]:
    """Lower-case words and marks of a text."""
    return _WORD.findall(text.lower())


def word_spans(text: str) -> list[tuple[str, int, int]]:
    """Words with their places in the text."""
    return [(found.group(), found.start(), found.end()) for found in _WORD.finditer(text.lower())]


def crops(reviews: Sequence[Review], most: int, seed: int) -> list[Review]:
    """One random run of 8 to ``most`` words of every review: as short as what the model writes."""
    source, found = random.Random(seed), []
    for review in reviews:
        all_words = review.text.split()
        length = min(len(all_words), source.randint(8, most))
        start = source.randint(0, len(all_words) - length)
        found.append(Review(" ".join(all_words[start : start + length]), review.positive))
    return found


class NGrams:
    """Logistic regression on words and pairs of neighbouring words, each counted once per text.

    Args:
      reviews: training data.
      least: texts that a word or pair must occur in.
      rounds: passes over the data; each takes another crop of every review.
      seed: of crops and order.
    """

    def __init__(self, reviews: Sequence[Review], *, least: int = 5, rounds: int = 6, seed: int = 0) -> None:
        counts = Counter(gram for review in reviews for gram in set(_grams(words(review.text))))
        kept = sorted(gram for gram, count in counts.items() if count >= least)
        self.places = {gram: place for place, gram in enumerate(kept)}
        self.weights = nn.EmbeddingBag(len(kept) + 1, 1, mode="sum", sparse=False)
        nn.init.zeros_(self.weights.weight)
        self.bias = nn.Parameter(torch.zeros(()))
        optimizer = torch.optim.Adam([self.weights.weight, self.bias], lr=2e-2)
        for turn in range(rounds):
            self._pass(optimizer, reviews, turn, seed)

    def _pass(
        self, optimizer: torch.optim.Optimizer, reviews: Sequence[Review], turn: int, seed: int
    ) -> None:
        batch = [*crops(reviews, 60, seed + 100 * turn), *reviews]
        random.Random(seed + turn).shuffle(batch)
        for start in range(0, len(batch), 500):
            part = batch[start : start + 500]
            target = torch.tensor([float(review.positive) for review in part])
            loss = functional.binary_cross_entropy_with_logits(self._logits([r.text for r in part]), target)
            # A ridge penalty: most pairs of words are rare.
            loss = loss + 2e-4 * self.weights.weight.pow(2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def _logits(self, texts: Sequence[str]) -> Tensor:
        bags = [self._bag(text) for text in texts]
        offsets = torch.tensor([0, *itertools.accumulate(len(bag) for bag in bags)][:-1])
        flat = torch.tensor([place for bag in bags for place in bag])
        # Divided by the root of their number, so that long and short texts have logits of one scale.
        scale = torch.tensor([len(bag) for bag in bags]).float().rsqrt()
        return self.bias + self.weights(flat, offsets)[:, 0] * scale

    def _bag(self, text: str) -> list[int]:
        return [self.places[gram] for gram in set(_grams(words(text))) if gram in self.places] or [
            len(self.places)
        ]

    @torch.no_grad()
    def logits(self, texts: Sequence[str]) -> Tensor:
        """Log-odds of being positive, [texts]."""
        return self._logits(texts)

    def strongest(self, count: int) -> tuple[list[str], list[str]]:
        """Single words with the most positive and the most negative weights."""
        weight = self.weights.weight.detach()[:, 0]
        single = sorted((float(weight[p]), gram) for gram, p in self.places.items() if " " not in gram)
        return [gram for _, gram in single[::-1][:count]], [gram for _, gram in single[:count]]

    def word_weight(self, word: str) -> float:
        """Weight of a single word; 0 for an unknown one."""
        place = self.places.get(word)
        return 0.0 if place is None else float(self.weights.weight.detach()[place, 0])


def _grams(all_words: list[str]) -> list[str]:
    return all_words + [f"{a} {b}" for a, b in itertools.pairwise(all_words)]


class Convolution(nn.Module):
    """Maximum over time of convolutions of two, three and four words, with dropout.

    Args:
      reviews: training data.
      rounds: passes over the data.
      seed: of weights and order.

    Source: Kim 2014, arXiv 1408.5882.
    """

    def __init__(self, reviews: Sequence[Review], *, rounds: int = 14, seed: int = 0) -> None:
        super().__init__()
        counts = Counter(word for review in reviews for word in words(review.text))
        kept = sorted(word for word, count in counts.items() if count >= 2)
        self.places = {word: place + 2 for place, word in enumerate(kept)}
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(len(kept) + 2, 64, padding_idx=_PAD)
        self.filters = nn.ModuleList([nn.Conv1d(64, 48, width) for width in (2, 3, 4)])
        self.head = nn.Linear(3 * 48, 1)
        self._fit(list(reviews), rounds, seed)
        self.eval()

    def _fit(self, reviews: list[Review], rounds: int, seed: int) -> None:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=1e-2)
        self.train()
        for turn in range(rounds):
            random.Random(seed + turn).shuffle(reviews)
            for start in range(0, len(reviews), 64):
                part = reviews[start : start + 64]
                target = torch.tensor([float(review.positive) for review in part])
                loss = functional.binary_cross_entropy_with_logits(self([r.text for r in part]), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Log-odds of being positive, [texts]."""
        rows = [[self.places.get(word, _UNKNOWN) for word in words(text)] for text in texts]
        width = max(4, *map(len, rows))
        ids = torch.tensor([row + [_PAD] * (width - len(row)) for row in rows])
        states = functional.dropout(self.embedding(ids), 0.3, self.training).transpose(1, 2)
        found = torch.cat([torch.relu(conv(states)).amax(-1) for conv in self.filters], -1)
        return self.head(functional.dropout(found, 0.5, self.training))[:, 0]

    @torch.no_grad()
    def logits(self, texts: Sequence[str]) -> Tensor:
        """Log-odds of being positive, [texts]; in parts, to bound memory."""
        return torch.cat([self(texts[start : start + 256]) for start in range(0, len(texts), 256)])


def accuracy(model: NGrams | Convolution, reviews: Sequence[Review]) -> float:
    """Share of texts on the right side of 0."""
    positive = torch.tensor([review.positive for review in reviews])
    return float(((model.logits([review.text for review in reviews]) > 0) == positive).float().mean())
