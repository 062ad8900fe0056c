"""Loss and gradients of one training step through OpenRLHF's adapter, for the other trainer to reproduce.

``python tests/golden/adapter_vectors.py`` adds to adapters.npz what it lacks, in the environment of OpenRLHF;
``tests/axolotl/test_trl_vectors.py`` checks it in the environment of TRL. Bare float32 modules, no dropout.
The file holds the inputs too: nothing is drawn at random where it is read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from sparsepo_plugin import registry
from sparsepo_plugin.configured_loss import ConfiguredLoss, reference_shape

FILE = Path(__file__).with_name("adapters.npz")
SEED, BETA = 3, 0.5
CONFIG = {
    "vocab_size": 12, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32,
    "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
# Prompt, chosen and rejected token ids: ragged, so that both sides are padded somewhere.
PAIRS = [
    ([2, 3, 4], [5, 6, 7, 1], [8, 9, 1]),
    ([4, 2], [9, 10, 1], [11, 5, 6, 8, 2, 1]),
    ([7, 8, 9, 3], [2, 1], [3, 3, 4, 1]),
]
# Of every response token a number of the data; the end token has none.
WEIGHTS = [
    ([0.9, 0.2, 0.4, nan], [0.1, 0.7, nan]),
    ([0.3, nan, nan], [0.8, 0.5, 0.05, 0.6, nan, nan]),
    ([0.65, nan], [0.15, 0.25, 0.35, nan]),
]
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in registry.names()},
    "sparsepo-independent": (
        "sparsepo",
        {"masks": "independent", "normalise": "none", "reward_l1": 0.01, "kl_l1": 0.02},
    ),
    "sparsepo-anchored": ("sparsepo", {"mask_on": "reward", "anchor": 0.3, "anchor_weight": "complement"}),
    "sparsepo-last": ("sparsepo", {"layers": "last", "width": 4, "token": "after", "normalise": "none"}),
    "sparsepo-random": ("sparsepo", {"source": "random", "masks": "independent"}),
    "mapo-attention": ("mapo", {"sites": "attn,logits"}),
}


class Step(NamedTuple):
    """What one backward pass gives: the loss, and the gradients of policy and mask module, flattened."""

    loss: float
    policy_gradient: np.ndarray
    mask_gradient: np.ndarray


def model_of(weights: np.ndarray) -> LlamaForCausalLM:
    """The tiny model with the given weights, in the order of its parameters."""
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).float()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(weights), model.parameters())
    return model


def objective_of(name: str, options: dict[str, Any]) -> ConfiguredLoss:
    loss = registry.get(name)
    return ConfiguredLoss(loss, loss.options.build(options), reference_shape(LlamaConfig(**CONFIG)))


def all_options(name: str, given: dict[str, object]) -> dict[str, Any]:
    """Every option of a loss, so that a default that changes one day changes no vector."""
    return dataclasses.asdict(registry.get(name).options.build(given))


def gradient(module: nn.Module) -> np.ndarray:
    """All gradients of a module, flattened; zeros where there is none."""
    values = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
    return torch.cat([v.flatten() for v in values]).numpy() if values else np.zeros(0, np.float32)


def openrlhf_step(
    objective: ConfiguredLoss, policy_weights: np.ndarray, reference_weights: np.ndarray
) -> Step:
    """One forward and backward pass through the trainer class of adapters/openrlhf."""
    from sparsepo_plugin.adapters.openrlhf import flags
    from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf

    import_openrlhf()
    from openrlhf.models import Actor

    from sparsepo_plugin.adapters.openrlhf.dataset import PromptLength
    from sparsepo_plugin.adapters.openrlhf.trainer import PreferenceTrainer

    strategy = _NoStrategy(
        args=flags.parse([]).arguments, seed=SEED, world_size=1, ring_attn_group=None, is_rank_0=lambda: True,
        _unwrap_model=lambda model: model.model,
    )  # fmt: skip
    actors = [Actor(model_of(weights)) for weights in (policy_weights, reference_weights)]
    for actor in actors:
        actor.packing_samples = False  # upstream sets it only where it loads the model itself
    unused = dict.fromkeys(("optim", "train_dataloader", "eval_dataloader", "scheduler"), None)
    trainer = PreferenceTrainer(
        objective=objective, model=actors[0], ref_model=actors[1], strategy=strategy, beta=BETA,
        tokenizer=SimpleNamespace(pad_token_id=0), **unused,
    )  # fmt: skip
    chosen, rejected = (padded([p + pair[side] for p, *pair in PAIRS]) for side in (0, 1))
    weights = WEIGHTS if objective.needs.token_weights else [None] * len(PAIRS)
    lengths = [
        PromptLength(len(prompt), index, weights=numbers)
        for index, ((prompt, *_), numbers) in enumerate(zip(PAIRS, weights))
    ]
    with torch.no_grad():
        reference = trainer.concatenated_forward(actors[1], *chosen, *rejected, lengths)[0]
    policy = trainer.concatenated_forward(actors[0], *chosen, *rejected, lengths)[0]
    loss = trainer.loss_fn(policy, None, reference, None)[0]
    loss.backward()
    return Step(loss.item(), gradient(actors[0].model), gradient(trainer.mask_source))


class _NoStrategy(SimpleNamespace):
    """Stands for the strategy; whatever else the trainer tells it around a step is of no effect here."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, right-padded."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


def write() -> None:
    """Compute the variants that the file lacks, from its weights; what is there stays as it is."""
    with np.load(FILE) as old:
        found: dict[str, np.ndarray] = dict(old)
    weights = [found[f"weights.{key}"] for key in ("policy", "reference")]
    variants = json.loads(str(found["variants"]))
    missing = [name for name in VARIANTS if name not in variants]
    for name in missing:
        loss, given = VARIANTS[name]
        variants[name] = (loss, all_options(loss, given))
        step = openrlhf_step(objective_of(*variants[name]), *weights)
        found |= {f"{name}.{key}": np.asarray(value) for key, value in step._asdict().items()}
    found["variants"] = np.asarray(json.dumps(variants))
    np.savez_compressed(FILE, **found)
    print(f"{FILE}: added {', '.join(missing) or 'nothing'}; {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    write()
