"""What all runs share: the first study's model and classifiers, labelled pairs, prompts; a seed's pairs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import write_text
from study import data
from study.base import base
from study.classifiers import Convolution, NGrams
from study.language import Language
from study.on_methods import weights
from study.on_methods.plan import METHODS, Sizes
from study.pairs import beginnings, label
from study.prepared import Prepared, TokenPair, prepare
from study.rows import Table
from study.scales import Sentiment
from study.sentiment_room import classifiers


class Room(NamedTuple):
    """Reference, the two classifiers, labelled pairs, and the prompts that policies continue."""

    language: Language
    reward: NGrams
    check: Convolution
    pool: list[TokenPair]
    validation: list[list[int]]
    test: list[list[int]]


class Lot(NamedTuple):
    """A seed's pairs, without token weights, and the weights that some methods read, [2 * n, seq - 1]."""

    pairs: Prepared
    ratios: Tensor | None
    flags: Tensor

    def of(self, method: str) -> Prepared:
        """The pairs as a method reads them."""
        return self.pairs.weighed(weights.shown(METHODS[method].weights, self.ratios, self.flags))


def furnish(root: Path, work: Path, sizes: Sizes) -> Room:
    """Train, or load from the work folder, model and classifiers; sample and label the pairs.

    Raises:
      UserError: the data have fewer prompts than are needed.
    """
    work.mkdir(parents=True, exist_ok=True)
    same = Sentiment(sizes.language, reviews=sizes.reviews, check=sizes.check)
    reviews = data.reviews(root, "text/imdb_train")[: sizes.reviews or None]
    unseen = data.reviews(root, "text/imdb_valid")
    language = base(root, work, same)
    reward, check = classifiers(root, work, reviews, unseen, same, Table(work / "judges.csv", ["classifier"]))
    kept = work / "training_pairs.json"
    if not kept.is_file():
        prompts = beginnings(language, [review.text for review in reviews], sizes.prompt)[: sizes.prompts]
        write_text(kept, json.dumps(label(language, reward, prompts, sizes.length, 1000)))
    pool = [TokenPair(*pair) for pair in json.loads(kept.read_text(encoding="utf-8"))]
    half, number = len(unseen) // 2, sizes.blocks * sizes.block
    validation = beginnings(language, [review.text for review in unseen[:half]], sizes.prompt)
    test = beginnings(language, [review.text for review in unseen[half:]], sizes.prompt)[sizes.skipped :]
    for name, found, wanted in (("validation", validation, sizes.validation), ("test", test, number)):
        if len(found) < wanted:
            raise UserError(
                f"{root}/text/imdb_valid: got {len(found)} {name} prompts, expected {wanted}; "
                "name the folder of the study's data (docs/study.md)"
            )
    return Room(language, reward, check, pool, validation[: sizes.validation], test[:number])


def draw(room: Room, sizes: Sizes, seed: int) -> Lot:
    """The pairs of a seed; guides are trained where a method of the comparison reads their numbers."""
    mine = random.Random(1000 + seed).sample(room.pool, min(sizes.pairs, len(room.pool)))
    ready = prepare(room.language, mine)
    guided = any(METHODS[name].weights in ("guides", "probabilities") for name in sizes.methods)
    ratios = weights.log_ratios(room.language, mine, ready, sizes, seed) if guided else None
    return Lot(ready, ratios, weights.words(room.language, room.reward, ready))
