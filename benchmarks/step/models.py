"""The pair of models that a step runs: a Llama with random weights and a reference a little away from it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

SEED, DISTANCE = 0, 0.002


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    hidden: int = 384
    layers: int = 6
    heads: int = 6
    kv_heads: int = 6
    intermediate: int = 1024
    tied: bool = True

    def __str__(self) -> str:
        return f"Llama {self.hidden} x {self.layers}"


# 23 million parameters with a vocabulary of 32,000, of which 12 million are the vocabulary's.
SMALL = Shape()
# The sizes of Llama 3.2 1B.
ONE_BILLION = Shape(hidden=2048, layers=16, heads=32, kv_heads=8, intermediate=8192)
# The sizes of Llama 3.1 8B.
EIGHT_BILLION = Shape(hidden=4096, layers=32, heads=32, kv_heads=8, intermediate=14336, tied=False)
TINY = Shape(hidden=32, layers=2, heads=4, kv_heads=2, intermediate=64)


class Models(NamedTuple):
    """Policy, in training mode, and reference, frozen."""

    policy: Any
    reference: Any


def build(
    shape: Shape,
    vocabulary: int,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    head_only: bool = False,
) -> Models:
    """Make both models.

    Args:
      shape: sizes.
      vocabulary: entries.
      device: where they live.
      dtype: of the weights.
      head_only: the blocks hand their input on and the embeddings are frozen and not the head's: what a step
        then computes is the final norm, the head and the loss, from hidden states that are given.
    """
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=131072, tie_word_embeddings=shape.tied and not head_only, use_cache=False,
        bos_token_id=None, eos_token_id=1, pad_token_id=0, attn_implementation="sdpa",
    )  # fmt: skip
    with torch.device(device):
        # Each its own configuration, which says how the model attends.
        policy, reference = (LlamaForCausalLM(copy.deepcopy(config)).to(dtype) for _ in range(2))
    reference.load_state_dict(policy.state_dict())
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(DISTANCE * torch.randn_like(parameter))
    if head_only:
        for model in (policy, reference):
            _cut_blocks(model)
    reference.eval().requires_grad_(False)
    return Models(policy.train(), reference)


def _cut_blocks(model: Any) -> None:
    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states

    for layer in model.model.layers:
        layer.forward = forward
        layer.requires_grad_(False)
    model.model.embed_tokens.requires_grad_(False)
