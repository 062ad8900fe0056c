"""A reward model: the domain's language model with a score in place of the next token, on own pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForSequenceClassification

from benchmarks.study.language import Language
from benchmarks.study.prepared import TokenPair

RATE = 3e-4
BATCH = 16


class RewardModel:
    """Scores prompts with responses; a Hugging Face folder for sequence classification with one label.

    Args:
      model: the trained classifier.
    """

    def __init__(self, model: LlamaForSequenceClassification) -> None:
        self.model = model
        self.pad = int(model.config.pad_token_id)
        self.special = {self.pad, int(model.config.eos_token_id)}

    def _scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=self.pad)
        scores: Tensor = self.model(ids, attention_mask=(ids != self.pad).long(), use_cache=False).logits[
            :, 0
        ]
        return scores

    def _rows(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> list[list[int]]:
        # Without the end token: a judge that is given texts does not see it either.
        return [[*p, *(t for t in r if t not in self.special)] for p, r in zip(prompts, responses)]

    @torch.no_grad()
    def scores(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
        """One score per response, [rows]; pad and end tokens are left out."""
        rows = self._rows(prompts, responses)
        parts = [self._scores(rows[start : start + 64]) for start in range(0, len(rows), 64)]
        return torch.cat(parts)

    def accuracy(self, pairs: Sequence[TokenPair]) -> float:
        """Share of pairs whose chosen response scores higher."""
        prompts = [pair.prompt for pair in pairs]
        chosen = self.scores(prompts, [pair.chosen for pair in pairs])
        rejected = self.scores(prompts, [pair.rejected for pair in pairs])
        return float((chosen > rejected).float().mean())

    def fit(self, pairs: Sequence[TokenPair], epochs: int, seed: int) -> None:
        """Train on -log sigmoid(score of chosen - score of rejected).

        Source: Bradley and Terry 1952; as reward models in Ouyang et al. 2022, arXiv 2203.02155.
        """
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=0.1)
        generator = torch.Generator().manual_seed(seed)
        self.model.train()
        for _ in range(epochs):
            order = torch.randperm(len(pairs), generator=generator).tolist()
            for start in range(0, len(order), BATCH):
                some = [pairs[place] for place in order[start : start + BATCH]]
                prompts = [pair.prompt for pair in some]
                sides = [pair.chosen for pair in some] + [pair.rejected for pair in some]
                chosen, rejected = self._scores(self._rows(prompts + prompts, sides)).chunk(2)
                loss = -logsigmoid(chosen - rejected).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.model.eval()


def reward_model(
    folder: Path, language: Language, pairs: Sequence[TokenPair], epochs: int, seed: int = 0
) -> RewardModel:
    """Load the reward model of a folder, or train it there."""
    if not (folder / "config.json").is_file():
        config = language.model.config.to_dict() | {"num_labels": 1}
        for names in ("id2label", "label2id"):  # of two labels
            config.pop(names, None)
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification(type(language.model.config)(**config))
        model.model.load_state_dict(language.model.model.state_dict())
        made = RewardModel(model)
        made.fit(pairs, epochs, seed)
        language.tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    loaded = LlamaForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return RewardModel(loaded.eval().requires_grad_(False))
