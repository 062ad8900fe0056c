"""Does this very model, with its weights, kernel and number format, give the numbers of two rows?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sparsepo_plugin.adapters.prefix.attention import (
    FLEX,
    attach,
    detach,
    kernel_for,
    language_model,
    packs,
    sharing,
)
from sparsepo_plugin.adapters.prefix.gradient_check import checking_gradients
from sparsepo_plugin.adapters.prefix.layout import CHOSEN, SharedRows, shared_rows

# Relative error of a token's state that rounding may explain after one block; it grows as a random walk does.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 5e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
# A row of more tokens than this runs another kernel of FlexAttention than a shorter one.
_SHORT = 128
_LONGEST_WINDOW = 1024  # a longer sliding window is not filled: the probe would cost as much as training


class _Pairs(NamedTuple):
    """Chosen and rejected rows with their attention masks, [pairs, seq] each, and prompt lengths, [pairs]."""

    chosen: Tensor
    chosen_attention: Tensor
    rejected: Tensor
    rejected_attention: Tensor
    prompts: Tensor


def probe(
    model: nn.Module,
    kernel: str | None = None,
    *,
    training: bool = False,
    device: torch.device | None = None,
) -> str | None:
    """Compare shared with separate rows on a few random tokens; without gradients or dropout.

    Every process of a sharded model must call it; all get the same answer.

    Args:
      model: not attached yet; wrapped in whatever. Its state is what it was when the probe returns.
      kernel: as ``attach`` takes it.
      training: the model will be trained: also compare the kernel's gradients with those of plain attention.
      device: where inputs belong; by default where the parameters are.

    Returns:
      None if shared rows give the model's numbers, else the reason in one line.
    """
    lm = language_model(model)
    device = next(lm.parameters()).device if device is None else device
    kernel = kernel or kernel_for(lm)
    modes = {module: module.training for module in lm.modules()}
    lm.eval()
    try:
        with torch.no_grad():
            pairs = _pairs(lm.config, device, _SHORT if kernel == FLEX else 0)
            reason = _compare(model, pairs, kernel, training)
    finally:
        detach(model)
        for module, mode in modes.items():
            module.training = mode
        if kernel == FLEX:
            # What was compiled for the probe's rows would count as graphs of training.
            torch.compiler.reset()
    return _agreed(reason, device)


def _compare(model: nn.Module, pairs: _Pairs, kernel: str, training: bool) -> str | None:
    rows = shared_rows(*pairs)
    counted = rows.window.labels != -100
    counted[:, 0] = True
    one, two = (_separate(model, pairs, rows, extra) for extra in (0, 3))
    kind = _Kind(language_model(model).dtype)
    try:
        with checking_gradients(4 * kind.tolerance) if training else nullcontext():
            shared, changed = _shared(model, rows, kernel)
    except Exception as error:  # whatever a model's code makes of it: this one cannot
        return f"shared rows do not run: {' '.join(str(error).split())[:200]}"
    rejected = counted.clone()
    rejected[: len(counted) // 2] = False
    for depth, (alone, again, here, after) in enumerate(zip(one, two, shared, changed)):
        where = "the logits" if depth == len(one) - 1 else f"block {depth}"
        leak, noise = _error(here[rejected], after[rejected]), _error(alone[counted], again[counted])
        if not leak <= 4 * noise + kind.epsilon / 64:
            return f"rejected responses see chosen ones: they move by {leak:.1e} of their size in {where}"
        distance = _error(alone[counted], here[counted], kind.share)
        accepted = 4 * noise + kind.tolerance * max(depth, 1) ** 0.5
        if not distance <= accepted:
            return (
                f"shared rows differ from separate ones by {distance:.1e} of their size in {where}, "
                f"accepted is {accepted:.0e} in {kind.name}"
            )
    return None


class _Kind:
    """What a number format can be held to."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.name = str(dtype).removeprefix("torch.")
        self.tolerance = TOLERANCES.get(dtype, TOLERANCES[torch.bfloat16])
        self.epsilon = torch.finfo(dtype).eps
        # Rounding to half precision lets a router choose another expert at a tie: a few tokens may differ.
        self.share = 1.0 if self.epsilon < 1e-4 else 0.8


def _error(expected: Tensor, got: Tensor, share: float = 1.0) -> float:
    """Relative error of the vectors of tokens, [tokens, features]: of the worst within a share of them.

    NaN where a number is not finite.
    """
    expected, got = expected.double(), got.double()
    sizes = expected.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    errors = ((got - expected).norm(dim=-1) / sizes).sort().values
    finite = bool(torch.isfinite(errors).all())
    return float(errors[int(share * (len(errors) - 1))]) if finite else float("nan")


def _runnable(model: nn.Module) -> nn.Module:
    """What takes a model's arguments: the adapter around it, or the model, not engines and actors."""
    for module in model.modules():
        if hasattr(module, "peft_config") or module is language_model(model):
            return module
    raise ValueError(f"{type(model).__name__} holds no transformers model: expected one")


def _separate(model: nn.Module, pairs: _Pairs, rows: SharedRows, extra: int) -> list[Tensor]:
    """States of blocks and logits in the window, from two rows per pair with ``extra`` columns of padding."""
    halves = (pairs.chosen, pairs.rejected), (pairs.chosen_attention, pairs.rejected_attention)
    width = max(part.shape[1] for part in halves[0]) + extra
    ids, attention = (
        torch.cat([nn.functional.pad(part, (0, width - part.shape[1])) for part in half]) for half in halves
    )
    position_ids = (attention.cumsum(1) - 1).masked_fill(attention == 0, 1)
    row = torch.arange(len(ids), device=ids.device)[:, None]
    return [value[row, rows.own_positions] for value in _run(model, ids, attention, position_ids)]


def _shared(model: nn.Module, rows: SharedRows, kernel: str) -> tuple[list[Tensor], list[Tensor]]:
    """The same from shared rows, and once more with other tokens in the chosen responses."""
    attach(model, kernel)
    rows = rows.packed() if packs(model) else rows
    vocabulary = language_model(model).config.vocab_size
    others = torch.where(rows.segments == CHOSEN, (rows.token_ids + 2) % vocabulary, rows.token_ids)
    sides = []
    for tokens in (rows.token_ids, others):
        with sharing(rows):
            values = _run(model, tokens, rows.attention_mask, rows.position_ids)
        sides.append([rows.window.take(value) for value in values])
    return sides[0], sides[1]


def _run(model: nn.Module, ids: Tensor, attention: Tensor, positions: Tensor) -> Sequence[Tensor]:
    output = _runnable(model)(
        input_ids=ids, attention_mask=attention, position_ids=positions, output_hidden_states=True,
        use_cache=False,
    )  # fmt: skip
    return [*(output.hidden_states or ()), output.logits]


def _pairs(config: Any, device: torch.device, least: int = 0) -> _Pairs:
    """Four ragged pairs that outgrow a short sliding window, and rows of ``least`` tokens.

    The second prompt is tokenised differently at its end, the third has one token and unequal responses, the
    fourth's responses begin alike.
    """
    generator = torch.Generator().manual_seed(0)
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    reach = min((size for size in windows if size and size <= _LONGEST_WINDOW), default=0)
    reach = max(reach, min(least, (getattr(config, "max_position_embeddings", None) or least + 24) - 24))

    def some(count: int) -> Tensor:
        return torch.randint(config.vocab_size, (count,), generator=generator)

    def other(tokens: Tensor) -> Tensor:
        return (tokens + 1) % config.vocab_size

    chosen, rejected, prompts = [], [], []
    for length, first, second, torn, alike in (
        (reach + 5, 4, 7, 0, 0), (9, 8, 3, 1, 0), (1, 2, reach + 12, 0, 0), (6, 9, 11, 0, 3),
    ):  # fmt: skip
        prompt, start, chosen_rest, rejected_rest = some(length), some(alike), some(first), some(second)
        rejected_rest[0] = other(chosen_rest[0])
        other_prompt = torch.cat([prompt[: length - torn], other(prompt[length - torn :])])
        chosen.append(torch.cat([prompt, start, chosen_rest]))
        rejected.append(torch.cat([other_prompt, start, rejected_rest]))
        prompts.append(length)
    halves = [
        padded
        for half in (chosen, rejected)
        for padded in (
            pad_sequence(half, batch_first=True),
            pad_sequence([torch.ones_like(tokens) for tokens in half], batch_first=True),
        )
    ]
    return _Pairs(*(value.to(device) for value in (*halves, torch.tensor(prompts))))


def _agreed(reason: str | None, device: torch.device) -> str | None:
    """The first process's reason on every process; a reason of any is one for all."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return reason
    reasons: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(reasons, reason)
    return next((found for found in reasons if found is not None), None)
