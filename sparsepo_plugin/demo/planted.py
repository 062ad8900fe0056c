"""How well a mask finds planted tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsepo_plugin.demo.language import Pair, auc
from sparsepo_plugin.types import ReferenceState


class MaskQuality(NamedTuple):
    """Reward mask on held-out responses.

    Attributes:
      auc: of the mask value as a score for "this word is planted"; 0.5 is chance.
      sparsity: share of response words with mask exactly 0.
      mean: mean mask value over response words.
    """

    auc: float
    sparsity: float
    mean: float


@torch.no_grad()
def mask_quality(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, masks: nn.Module, pairs: Sequence[Pair]
) -> MaskQuality:
    """Compare the reward mask with the planted words of both responses of every pair.

    Args:
      model: the reference model, float32.
      tokenizer: one token per word.
      masks: a mask source.
      pairs: held-out pairs.
    """
    model.eval()
    values: list[float] = []
    labels: list[bool] = []
    for pair in pairs:
        for response, planted in ((pair.chosen, pair.chosen_planted), (pair.rejected, pair.rejected_planted)):
            values += _word_values(model, tokenizer, masks, pair.prompt, response)
            labels += planted
    zeros = sum(value == 0 for value in values)
    return MaskQuality(auc(values, labels), zeros / len(values), sum(values) / len(values))


def _word_values(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, masks: nn.Module, prompt: str, response: str
) -> list[float]:
    """Reward mask of every word of one response."""
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    ids = tokenizer(prompt + response, add_special_tokens=False, return_tensors="pt")["input_ids"]
    hidden = model(ids, output_hidden_states=True).hidden_states[1:]
    response_mask = torch.zeros(1, ids.shape[1] - 1, dtype=torch.bool)
    response_mask[:, start - 1 :] = True
    reward_mask: Tensor = masks(ReferenceState(tuple(hidden), response_mask, ids)).reward_mask
    values: list[float] = reward_mask[response_mask].tolist()
    return values
