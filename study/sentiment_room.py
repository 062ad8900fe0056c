"""What all runs of the sentiment experiment share: model, classifiers, sampled and labelled pairs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.files import write_text
from study import data
from study.base import base
from study.classifiers import Convolution, NGrams, accuracy, crops
from study.language import Language
from study.measure import importance
from study.pairs import beginnings, label
from study.prepared import Prepared, TokenPair, prepare
from study.rows import Table
from study.scales import Sentiment

HELD_OUT_SENTENCES = 1000


class Room(NamedTuple):
    """Everything that all runs share."""

    language: Language
    reward: NGrams
    check: Convolution
    pool: list[TokenPair]
    prompts: dict[str, list[list[int]]]
    held_out: dict[str, Prepared]
    important: dict[str, Tensor]
    prepared: dict[int, Prepared]

    def training_pairs(self, count: int, seed: int) -> Prepared:
        """The pairs of a seed; those of the last seed asked for are kept."""
        if seed not in self.prepared:
            self.prepared.clear()
            mine = random.Random(1000 + seed).sample(self.pool, min(count, len(self.pool)))
            self.prepared[seed] = prepare(self.language, mine)
        return self.prepared[seed]


def furnish(root: Path, work: Path, scale: Sentiment, judges: Table) -> Room:
    """Train, or load, model and classifiers; sample and label pairs."""
    reviews = data.reviews(root, "text/imdb_train")[: scale.reviews or None]
    unseen = data.reviews(root, "text/imdb_valid")
    language = base(root, work, scale)
    reward, check = classifiers(root, work, reviews, unseen, scale, judges)
    half = len(unseen) // 2
    prompts = {
        split: beginnings(language, [review.text for review in part], scale.prompt)[:count]
        for split, part, count in (
            ("train", reviews, scale.prompts),
            ("validation", unseen[:half], scale.validation),
            ("test", unseen[half:], scale.test),
        )
    }
    if not (work / "pairs.json").is_file():
        found = {
            split: label(language, reward, some, scale.length, 1000 * place)
            for place, (split, some) in enumerate(prompts.items(), 1)
        }
        write_text(work / "pairs.json", json.dumps(found))
    kept = json.loads((work / "pairs.json").read_text(encoding="utf-8"))
    labelled = {split: [TokenPair(*pair) for pair in some] for split, some in kept.items()}
    ready = {split: prepare(language, labelled[split]) for split in ("validation", "test")}
    important = {
        split: importance(language.tokenizer, reward, ready[split].batch(range(len(ready[split]))).ids)
        for split in ready
    }
    return Room(language, reward, check, labelled["train"], prompts, ready, important, {})


def classifiers(
    root: Path, work: Path, reviews: list[data.Review], unseen: list[data.Review], scale: Sentiment,
    judges: Table,
) -> tuple[NGrams, Convolution]:  # fmt: skip
    """The reward and the independent check; their held-out accuracy goes to the table."""
    kept = work / "classifiers.pt"
    sentences = data.reviews(root, "text/rt_polarity")
    random.Random(0).shuffle(sentences)
    sentences = sentences[: scale.check or None]
    held = min(HELD_OUT_SENTENCES, len(sentences) // 5)
    if not kept.is_file():
        torch.save((NGrams(reviews), Convolution(sentences[held:])), kept)
    reward, check = torch.load(kept, weights_only=False)  # written by the line above, by nobody else
    if not judges.has(classifier="reward"):
        short = [crop for seed in range(4) for crop in crops(unseen, 30, seed)]
        for name, model in (("reward", reward), ("check", check)):
            found = {
                "reviews": accuracy(model, unseen),
                "short_passages": accuracy(model, short),
                "sentences": accuracy(model, sentences[:held]),
            }
            judges.add([{"classifier": name, **found}])
    return reward, check
