"""The language model that everything starts from: trained from scratch on film reviews."""

from __future__ import annotations

from pathlib import Path

from study import data
from study.language import Language, train
from study.scales import Sentiment


def base(root: Path, work: Path, scale: Sentiment) -> Language:
    """Load it from the work folder, or train it."""
    texts = [review.text for review in data.reviews(root, "text/imdb_train")[: scale.reviews or None]]
    return train(work / "language", texts, scale.language, 0)
