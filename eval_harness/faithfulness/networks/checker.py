"""A fact checker: the probability that a text supports a claim, by a classifier or a Flan-T5-style model."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Device
from eval_harness.faithfulness.networks.labels import read_labels
from eval_harness.faithfulness.networks.loading import by_length, load, progress, read_config
from eval_harness.models.finite import check_finite

Floats = NDArray[np.float64]
_T5_LONGEST = 2048  # relative positions: the published checker was run with so many


def supported_class(config: Any, labels: str, scorer: str) -> int:
    """Output that means supported: 1 of two without names, as published, else the one named so.

    Raises:
      UserError: other labels.
    """
    names = {str(name) for name in config.id2label.values()}
    if not labels and names == {"LABEL_0", "LABEL_1"}:
        return 1
    return read_labels(config, labels, scorer).entailment


class Checker:
    """The model with its way of asking: `text</s>claim` as one sequence, after `predict: ` for T5."""

    def __init__(self, folder: Path, labels: str, scorer: str, run_on: Device) -> None:
        """Load the model. Raises UserError: not such a model, other labels, answers it cannot tell apart."""
        config = read_config(folder, scorer)
        self._generates = bool(config.is_encoder_decoder) and "t5" in config.model_type
        kind = "AutoModelForSeq2SeqLM" if self._generates else "AutoModelForSequenceClassification"
        loaded = load(folder, kind, scorer, run_on)
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self.longest = _T5_LONGEST if self._generates else loaded.longest
        self._separator = self._tokenizer.eos_token or self._tokenizer.sep_token or " "
        self._batch_tokens, self._scorer = run_on.batch_tokens, scorer
        self._columns = self._answers() if self._generates else [supported_class(config, labels, scorer)]

    def _answers(self) -> list[int]:
        """First tokens of the answers 0 (not supported) and 1 (supported)."""
        ids = [int(self._tokenizer(answer, add_special_tokens=False).input_ids[0]) for answer in ("0", "1")]
        if ids[0] == ids[1]:
            raise UserError(
                f"scorer {self._scorer}: the tokenizer does not tell the answers 0 and 1 apart", got=ids[0]
            )
        return ids

    def length(self, text: str) -> int:
        """Tokens of a text without special ones."""
        return len(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    @property
    def counts_words(self) -> bool:
        """Whether documents are cut by words (T5) and not by tokens, as published."""
        return self._generates

    def support(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], float]:
        """Probability of support per distinct (text, claim)."""
        distinct = list(dict.fromkeys(pairs))
        prefix = "predict: " if self._generates else ""
        texts = [f"{prefix}{text}{self._separator}{claim}" for text, claim in distinct]
        rows = (
            self._tokenizer(texts, truncation=True, max_length=self.longest) if texts else {"input_ids": []}
        )
        lengths = [len(ids) for ids in rows["input_ids"]]
        support: dict[tuple[str, str], float] = {}
        with progress(f"{self._scorer}: claims", len(texts)) as bar:
            for batch in by_length(lengths, self._batch_tokens):
                probabilities = self._forward({name: [rows[name][i] for i in batch] for name in rows})
                support |= {distinct[i]: float(p) for i, p in zip(batch, probabilities, strict=True)}
                bar.update(len(batch))
        return support

    def _forward(self, rows: dict[str, Any]) -> Floats:
        import torch

        batch = self._tokenizer.pad(rows, return_tensors="pt").to(self._model.device)
        with torch.inference_mode():
            if self._generates:
                # T5 starts its answer with token 0; the first token decides.
                start = torch.zeros((len(batch["input_ids"]), 1), dtype=torch.long, device=self._model.device)
                logits = self._model(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    decoder_input_ids=start,
                ).logits[:, 0, self._columns]
            else:
                logits = self._model(**batch).logits
        check_finite(logits, "the answers' logits")
        column = 1 if self._generates else self._columns[0]
        chances: Floats = torch.softmax(logits.double(), dim=-1)[:, column].cpu().numpy()
        return chances


@functools.lru_cache(maxsize=1)
def checker(folder: Path, labels: str, scorer: str, run_on: Device) -> Checker:
    """The checker, loaded once."""
    return Checker(folder, labels, scorer, run_on)
