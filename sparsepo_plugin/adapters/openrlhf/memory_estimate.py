"""An estimate of the memory that a process needs, from sizes alone; see docs/preference-data.md."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


class Memory(NamedTuple):
    """Bytes of one process.

    Attributes:
      weights: of the policy.
      gradients: of what is trained.
      optimizer: two moments, and weights in float32 where training is not.
      reference: weights of the reference.
      activations: kept for the backward pass at the longest row, logits included where they are made.
    """

    weights: float
    gradients: float
    optimizer: float
    reference: float
    activations: float


def estimate(arguments: SimpleNamespace, policy: Any, reference: Any, longest: int, processes: int) -> Memory:
    """Estimate the memory of one process.

    Args:
      arguments: upstream's arguments.
      policy: the model without numbers.
      reference: the same of the reference, or None where the loss needs none.
      longest: tokens of the longest row.
      processes: of the run.

    Source: activations of a transformer block, arXiv 2205.05198, equation 1.
    """
    ds, size = arguments.ds, _BYTES[arguments.ds.param_dtype]
    split = [
        max(1, processes // ds.tensor_parallel_size) if ds.zero_stage >= stage else 1 for stage in range(4)
    ]
    whole = _parameters(policy) / ds.tensor_parallel_size
    trained = _adapter(policy, ds.lora) if ds.lora.rank else whole
    stored = 0.55 if ds.load_in_4bit else size  # four bits and their scales
    moments = 8 if size == 4 else 12
    other = 0 if reference is None else _parameters(reference) / ds.tensor_parallel_size
    return Memory(
        weights=(whole * stored + (trained * size if ds.lora.rank else 0)) / split[3],
        gradients=trained * size / split[2],
        optimizer=0 if ds.adam_offload else trained * moments / split[1],
        reference=0 if arguments.ref.offload else other * stored / split[3],
        activations=_activations(arguments, policy, longest, size),
    )


def _activations(arguments: SimpleNamespace, policy: Any, longest: int, size: int) -> float:
    config = policy.config.get_text_config()
    tokens = 2 * arguments.train.micro_batch_size * longest
    # 34 bytes per token and unit of width at two bytes a number; eager attention keeps every score thrice.
    block = 17 * size * tokens * config.hidden_size
    if arguments.ds.attn_implementation == "eager":
        block += 2.5 * size * tokens * longest * config.num_attention_heads
    layers = config.num_hidden_layers
    if arguments.model.gradient_checkpointing_enable:
        kept = size * tokens * config.hidden_size * layers + block
    else:
        kept = block * layers
    # Log-probabilities, their gradient and the logits, in float32.
    logits = 12.0 * tokens * config.vocab_size if arguments.perf.head == "off" else 0.0
    return kept + logits


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _adapter(model: Any, lora: SimpleNamespace) -> int:
    """Numbers of a LoRA adapter: rank x (inputs + outputs) of every adapted layer."""
    head = model.get_output_embeddings()
    targets = lora.target_modules
    total = 0
    for name, module in model.named_modules():
        chosen = targets == "all-linear" or name.rsplit(".", 1)[-1] in targets
        if isinstance(module, (nn.Linear, Conv1D)) and chosen and module is not head:
            total += lora.rank * sum(module.weight.shape)
    return total
