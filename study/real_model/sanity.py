"""Do converted weights still read? Figures that a broken tensor, tokenizer or layout would spoil."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsepo_plugin.errors import UserError

# Written for this check, so that no model was trained on it.
TEXT = (
    "The ferry to the island leaves twice a day, at 9 in the morning and at 4 in the afternoon. Most of the "
    "people who take it carry bread, letters and spare parts for the one tractor that still works. In winter "
    "the sea is often too rough, and then nobody comes for a week. The children like that best, because "
    "their teacher lives on the mainland. My aunt kept the only shop for 31 years. She knew who owed her "
    "money and never asked for it, and when she closed the door for the last time, every debt was paid "
    "within a month."
)
QUESTION, ANSWER = "What is the capital of France?", "Paris"
# The pair whose cosine the authors' documentation prints as 0.7553.
ALIKE, ALIKE_COSINE = ("A man is eating food.", "A man is eating a piece of bread."), 0.7553
AGAIN = "nothing was kept: run the command again with the pinned versions (make install)"
UNLIKE = (ALIKE[0], "The engine of an old tractor.")


def shuffled(text: str) -> str:
    """The same words in another order."""
    words = text.split()
    random.Random(0).shuffle(words)
    return " ".join(words)


@torch.no_grad()
def perplexity(model: Any, tokenizer: Any, text: str) -> float:
    """Exponential of the mean negative log-probability of the text's tokens after the first."""
    ids = tokenizer(text, return_tensors="pt").input_ids
    logps = model(ids).logits[0, :-1].float().log_softmax(-1)
    return math.exp(-float(logps.gather(1, ids[0, 1:, None]).mean()))


def language_model(folder: Path) -> dict[str, float | str]:
    """Perplexities of a text and of its words shuffled, and the greedy answer to a question.

    Raises:
      UserError: the model does not read English, or does not answer and stop.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    english, mixed = (perplexity(model, tokenizer, text) for text in (TEXT, shuffled(TEXT)))
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        written = model.generate(**prompt, max_new_tokens=40, do_sample=False)[
            0, prompt["input_ids"].shape[1] :
        ]
    answer = tokenizer.decode(written, skip_special_tokens=True)
    stopped = int(written[-1]) == tokenizer.eos_token_id
    if not (english < 60 and mixed > 8 * english and ANSWER in answer and stopped):
        raise UserError(
            f"{folder.name}: got perplexity {english:.3g} of English and {mixed:.3g} of its words shuffled, "
            f"answer {answer!r}{'' if stopped else ' without an end'}, expected below 60, above 8 times "
            f"that, and {ANSWER!r}; {AGAIN}"
        )
    return {"perplexity": english, "perplexity_shuffled": mixed, "question": QUESTION, "answer": answer}


@torch.no_grad()
def embed(model: Any, tokenizer: Any, texts: tuple[str, ...]) -> Tensor:
    """Unit means of the last layer's states, [texts, hidden], as sentence-transformers takes them."""
    rows = tokenizer(list(texts), padding=True, return_tensors="pt")
    states = model(**rows).last_hidden_state
    weights = rows["attention_mask"][..., None].float()
    return torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


def encoder(folder: Path) -> dict[str, float | str]:
    """Cosines of a like and of an unlike pair of texts.

    Raises:
      UserError: the encoder does not tell them apart.
    """
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    first, second, third = embed(model, tokenizer, (*ALIKE, UNLIKE[1]))
    alike, unlike = float(first @ second), float(first @ third)
    if not (abs(alike - ALIKE_COSINE) < 0.005 and unlike < 0.2):
        raise UserError(
            f"{folder.name}: got cosines {alike:.3f} of {ALIKE} and {unlike:.3f} of {UNLIKE}, expected "
            f"{ALIKE_COSINE} and below 0.2; {AGAIN}"
        )
    return {"cosine_alike": alike, "cosine_unlike": unlike}
