"""Numbers of tokens, one function or class per kind."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsepo_plugin.adapters import model_checks
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.pair_statistics import statistics
from sparsepo_plugin.forward.runner import ForwardRunner, ModelOutput
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX
from sparsepo_plugin.forward.window import ResponseWindow, response_window
from sparsepo_plugin.types import TokenStats
from sparsepo_plugin.weigh.placed import Placed
from sparsepo_plugin.weigh.settings import Settings


class Batch:
    """Rows as a model reads them.

    Args:
      sides: responses with their prompts, those of chosen before those of rejected.
      pad: token id of padding.
      device: where the models are.
    """

    def __init__(self, sides: Sequence[Placed], pad: int, device: str) -> None:
        width = max(len(side.ids) for side in sides)
        rows = [side.ids + [pad] * (width - len(side.ids)) for side in sides]
        self.ids = torch.tensor(rows, device=device)
        self.attention = torch.tensor(
            [[1] * len(side.ids) + [0] * (width - len(side.ids)) for side in sides], device=device
        )
        labels = self.ids.masked_fill(self.attention == 0, IGNORE_INDEX)
        for row, side in enumerate(sides):
            labels[row, : side.start] = IGNORE_INDEX
        self.window: ResponseWindow = response_window(self.ids, labels)


class Model:
    """A causal language model that is only read.

    Args:
      name: folder or hub name; an adapter's folder loads its base too.
      settings: device and dtype.

    Raises:
      UserError: it cannot be loaded.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        from transformers import AutoModelForCausalLM

        self.model = _load(AutoModelForCausalLM, name, settings)
        self._runner = ForwardRunner(self.model)

    def read(self, batch: Batch) -> ModelOutput:
        """Run it on a batch."""
        return self._runner.read(
            lambda **asked: self.model(batch.ids, attention_mask=batch.attention, use_cache=False, **asked),
            batch.window,
        )


class LogRatio:
    """log p(y_t) - log q(y_t), nats: q is the reference of an earlier run, or trained the other way round."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._model, self._against = Model(name, settings), Model(str(settings.against), settings)
        model_checks.check_vocabularies(self._model.model.config, self._against.model.config)

    def __call__(self, batch: Batch) -> tuple[Tensor, TokenStats]:
        """Numbers and statistics of the response tokens, [rows, width - 1]."""
        stats = statistics(self._model.read(batch), self._against.read(batch), with_kl=False)
        assert stats.reference_logps is not None
        return stats.policy_logps - stats.reference_logps, stats


class Entropy:
    """Entropy of the model where it predicts the token, nats."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._model = Model(name, settings)

    def __call__(self, batch: Batch) -> tuple[Tensor, TokenStats]:
        """As LogRatio."""
        stats = statistics(self._model.read(batch), None, with_kl=False, with_entropy=True)
        assert stats.entropy is not None
        return stats.entropy, stats


class Reward:
    """What a token adds to the reward: the head's value after it less the value before it."""

    def __init__(self, name: str, settings: Settings) -> None:
        from transformers import AutoModelForSequenceClassification

        self._model = _load(AutoModelForSequenceClassification, name, settings)
        head = getattr(self._model, "score", None)
        if not isinstance(head, torch.nn.Linear) or head.out_features != 1:
            raise UserError(
                f"--model {name}: got {type(self._model).__name__}, expected a reward model with a head "
                f"`score` of one output over every token"
            )
        self._head: torch.nn.Linear = head

    def __call__(self, batch: Batch) -> tuple[Tensor, TokenStats]:
        """As LogRatio; the statistics have no log-probabilities."""
        base = self._model.base_model
        states = base(batch.ids, attention_mask=batch.attention, use_cache=False).last_hidden_state
        values = self._head(states)[..., 0].float()
        response = batch.window.labels[:, 1:] != IGNORE_INDEX
        window = batch.window.take(values[..., None])[..., 0]
        steps = torch.where(response, window[:, 1:] - window[:, :-1], 0.0)
        return steps, TokenStats(torch.zeros_like(steps), None, None, response)


SCORERS: dict[str, Any] = {"log-ratio": LogRatio, "entropy": Entropy, "reward": Reward}


def _load(kind: Any, name: str, settings: Settings) -> Any:
    try:
        model = kind.from_pretrained(name, dtype=getattr(torch, settings.dtype))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--model {name}: cannot be loaded: {reason}") from None
    return model.to(settings.device).eval().requires_grad_(False)


class Words:
    """Numbers of whole words, whatever their case.

    Args:
      path: a list, one word a line; a tab and a number may follow, else the number is 1.

    Raises:
      UserError: no such file, an empty list, or a line without a word or with no number.
    """

    def __init__(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise UserError(f"--words {path}: cannot be read ({reason}); expected a word a line") from None
        self.numbers: dict[str, float] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            word, _, told = line.partition("\t")
            try:
                value = float(told) if told.strip() else 1.0
            except ValueError:
                value = math.nan
            if not word.strip() or not math.isfinite(value):
                raise UserError(
                    f"--words {path}: line {number}: got {line[:60]!r}, expected a word, tab, number"
                )
            self.numbers[word.strip().casefold()] = value
        if not self.numbers:
            raise UserError(f"--words {path}: got no word, expected one a line")
        listed = sorted(self.numbers, key=len, reverse=True)  # of words that begin alike the longest
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, listed))})(?!\w)", re.IGNORECASE)

    def spans(self, text: str) -> list[list[float]]:
        """[start, end, number] of every word that is listed."""
        return [
            [match.start(), match.end(), self.numbers[match[0].casefold()]]
            for match in self._pattern.finditer(text)
            if match[0].casefold() in self.numbers
        ]
