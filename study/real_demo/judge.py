"""A reward model on MiniLM's states, as a plain classifier folder that `eval-harness --judge reward` loads.

The encoder stays as published; pooler and score on top of its first token's state are trained on people's
pairs by Bradley and Terry's likelihood. Frozen states are computed once, so that training takes seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from tqdm import tqdm

from study.data import Pair

LENGTH = (
    192  # tokens of prompt and response; longer ones lose their beginning, as the harness's judge cuts them
)
PASSES, BATCH, RATE, DECAY = 30, 64, 1e-3, 0.05


def load(folder: Path) -> tuple[Any, Any]:
    """Classifier with one output on the encoder of a folder, and its tokenizer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right", truncation_side="left")
    torch.manual_seed(0)  # of the new score
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    return model.eval(), tokenizer


@torch.no_grad()
def states(model: Any, tokenizer: Any, texts: Sequence[str], batch: int = 16) -> Tensor:
    """State of the first token behind the last layer, [texts, hidden]; texts of like length together."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    found = torch.zeros(len(texts), model.config.hidden_size)
    for start in tqdm(range(0, len(order), batch), desc="reward head: states", mininterval=2):
        places = order[start : start + batch]
        rows = tokenizer(
            [texts[place] for place in places], padding=True, truncation=True, max_length=LENGTH,
            return_tensors="pt",
        )  # fmt: skip
        found[places] = model.bert(**rows).last_hidden_state[:, 0]
    return found


def texts_of(pairs: Sequence[Pair]) -> list[str]:
    """All chosen texts with their prompts, then all rejected ones, as the judge sees them."""
    return [pair.prompt + pair.chosen for pair in pairs] + [pair.prompt + pair.rejected for pair in pairs]


def score(model: Any, found: Tensor) -> Tensor:
    """Rewards of states, [texts]; the pooler reads the first token, so that one is enough."""
    return model.classifier(model.bert.pooler(found[:, None]))[:, 0]


@torch.no_grad()
def accuracy(model: Any, found: Tensor) -> float:
    """Share of pairs whose chosen text scores higher; a tie counts one half."""
    chosen, rejected = score(model, found).chunk(2)
    return float(((chosen > rejected).float() + 0.5 * (chosen == rejected).float()).mean())


def fit(model: Any, train: Tensor, valid: Tensor, seed: int) -> float:
    """Train pooler and score; the pass that ranks most validation pairs right is kept.

    Args:
      model: changed in place.
      train: states of training pairs, [2 * pairs, hidden], chosen first.
      valid: the same of validation pairs.
      seed: of the order.

    Returns:
      Accuracy on the validation pairs, which chose the pass and are flattered by it.
    """
    parts = (model.bert.pooler, model.classifier)
    optimizer = torch.optim.AdamW([p for part in parts for p in part.parameters()], RATE, weight_decay=DECAY)
    chosen, rejected = train.chunk(2)
    source, best, kept = torch.Generator().manual_seed(seed), -1.0, None
    for _ in range(PASSES):
        for rows in torch.randperm(len(chosen), generator=source).split(BATCH):
            # Dropout on the states: 384 of them learn a few thousand pairs by heart.
            noisy = nn.functional.dropout(torch.cat([chosen[rows], rejected[rows]]), 0.3)
            better, worse = score(model, noisy).chunk(2)
            optimizer.zero_grad()
            softplus(worse - better).mean().backward()
            optimizer.step()
        if (now := accuracy(model, valid)) > best:
            best, kept = now, copy.deepcopy([part.state_dict() for part in parts])
    for part, state in zip(parts, kept or []):
        part.load_state_dict(state)
    return best


def train(
    encoder: Path, pairs: Sequence[Pair], valid: Sequence[Pair], folder: Path, seed: int
) -> dict[str, float]:
    """Write the judge's folder; returns its accuracy on training and validation pairs."""
    model, tokenizer = load(encoder)
    torch.manual_seed(seed)  # of the dropout
    seen, held = states(model, tokenizer, texts_of(pairs)), states(model, tokenizer, texts_of(valid))
    best = fit(model, seen, held, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"pairs": float(len(pairs)), "accuracy_train": accuracy(model, seen), "accuracy_valid": best}
