"""Class probabilities of many text pairs: distinct ones only, in batches of like length, remembered."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval_harness.faithfulness.examples import Device
from eval_harness.faithfulness.networks.loading import by_length, load, progress
from eval_harness.models.finite import check_finite

_AT_ONCE = 32768  # pairs tokenised together: bounds the memory of their token lists
_REMEMBERED = 500_000  # pairs; candidate, baseline and several scorers ask the same ones

TextPair = tuple[str, str]
Floats = NDArray[np.float64]


class PairClassifier:
    """A sequence classifier of (premise, hypothesis).

    Rows are dealt to batches by length, so padding moves the last bits of a probability with the company a
    pair is in, as in any batched run.
    """

    def __init__(self, folder: Path, scorer: str, run_on: Device) -> None:
        """Load the model. Raises UserError as `load` does."""
        self._loaded = load(folder, "AutoModelForSequenceClassification", scorer, run_on)
        self._batch_tokens = run_on.batch_tokens
        self._known: dict[bytes, Floats] = {}

    @property
    def longest(self) -> int:
        """Longest input in tokens, special ones included."""
        return self._loaded.longest

    def length(self, text: str) -> int:
        """Tokens of a text without special ones."""
        return len(self._loaded.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def probabilities(self, pairs: Sequence[TextPair], longest: int, what: str = "pairs") -> Floats:
        """Softmax over the classes, [pairs, classes].

        Args:
          pairs: (premise, hypothesis); equal ones are asked once.
          longest: inputs are cut to so many tokens, the longer text first.
          what: what the pairs are, for the progress bar.
        """
        keys = [_key(pair, longest) for pair in pairs]
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._known}
        if len(self._known) + len(new) > _REMEMBERED:
            kept = {key: self._known[key] for key in set(keys) if key in self._known}
            self._known = kept
        self._ask(new, min(longest, self.longest), what)
        return np.stack([self._known[key] for key in keys]) if keys else np.zeros((0, 1))

    def _ask(self, new: dict[bytes, TextPair], longest: int, what: str) -> None:
        keys, asked = list(new), list(new.values())
        with progress(what, len(asked)) as bar:
            for start in range(0, len(asked), _AT_ONCE):
                part = asked[start : start + _AT_ONCE]
                rows = self._loaded.tokenizer(
                    [p for p, _ in part], [h for _, h in part], truncation="longest_first", max_length=longest
                )
                lengths = [len(ids) for ids in rows["input_ids"]]
                for batch in by_length(lengths, self._batch_tokens):
                    chances = self._forward({name: [rows[name][i] for i in batch] for name in rows})
                    for row, probabilities in zip(batch, chances, strict=True):
                        self._known[keys[start + row]] = probabilities
                    bar.update(len(batch))

    def _forward(self, rows: dict[str, Any]) -> Floats:
        import torch

        model = self._loaded.model
        batch = self._loaded.tokenizer.pad(rows, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            logits = model(**batch).logits
        check_finite(logits, "the classes' logits")
        chances: Floats = torch.softmax(logits.double(), dim=-1).cpu().numpy()
        return chances


def _key(pair: TextPair, longest: int) -> bytes:
    text = f"{longest}\0{len(pair[0])}\0{pair[0]}{pair[1]}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@functools.lru_cache(maxsize=2)
def pair_classifier(folder: Path, scorer: str, run_on: Device) -> PairClassifier:
    """The classifier, loaded once for all scorers that use it."""
    return PairClassifier(folder, scorer, run_on)
