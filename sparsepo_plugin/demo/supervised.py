"""Supervised start: next-token training that gives a tiny random model the language before preferences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

IGNORED = -100  # label of prompt and padding tokens; cross_entropy's default ignore_index
WARMUP_SHARE = 0.1
WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0


def supervised_start(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    max_length: int,
    prompts: Sequence[str] | None = None,
    progress: bool = True,
) -> list[float]:
    """Train the model in place with AdamW, linear warm-up and cosine decay; its train/eval mode is kept.

    Args:
      model: trained on the device it is on.
      tokenizer: needs pad and eos tokens.
      texts: prompt and response as one string each; the eos token is appended here.
      steps: optimizer steps; texts are reshuffled on every pass.
      batch_size: texts per step.
      learning_rate: peak, reached after a tenth of the steps.
      seed: fixes the order of the texts.
      max_length: tokens kept per text, eos included; the excess is cut from the end.
      prompts: beginnings of the texts; if given, only the tokens after them are trained on.
      progress: show a progress bar.

    Returns:
      Mean cross entropy of each step's batch, nats per trained token, length steps.

    Raises:
      ValueError: no texts, a number below 1, a prompt that its text does not start with, or a text with no
        token to train on.
    """
    if not texts or min(steps, batch_size) < 1 or max_length < 2:
        raise ValueError(
            f"supervised_start: got {len(texts)} texts, steps {steps}, batch_size {batch_size}, max_length "
            f"{max_length}; expected at least 1, 1, 1 and 2. Pass larger numbers."
        )
    examples = _encode(tokenizer, texts, prompts, max_length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    order = _shuffled_forever(len(examples), seed)
    was_training, losses = model.training, []
    model.train()
    bar = tqdm(range(steps), desc="supervised start", disable=not progress, leave=False)
    for _ in bar:
        batch = [examples[next(order)] for _ in range(batch_size)]
        loss = _batch_loss(model, batch, tokenizer.pad_token_id)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    model.train(was_training)
    return losses


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step, counted from 0: never 0, so every step learns."""
    warmup = max(1, int(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup + 1) / (steps - warmup + 1)))


def _encode(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], prompts: Sequence[str] | None, max_length: int
) -> list[tuple[Tensor, Tensor]]:
    """Token ids and labels of every text, each pair of shape [seq]."""
    heads = [""] * len(texts) if prompts is None else prompts
    if len(heads) != len(texts):
        raise ValueError(
            f"supervised_start: got {len(heads)} prompts for {len(texts)} texts; pass one prompt per text."
        )
    encode = {"add_special_tokens": False, "return_attention_mask": False}
    text_ids = tokenizer(list(texts), **encode)["input_ids"]
    prompt_ids = tokenizer(list(heads), **encode)["input_ids"]
    examples = []
    for index, (text, head) in enumerate(zip(text_ids, prompt_ids, strict=True)):
        ids = torch.tensor([*text, tokenizer.eos_token_id][:max_length])
        # The first token has no predecessor, so without a prompt training begins at the second.
        first = max(1, len(head))
        if text[: len(head)] != head or first >= len(ids):
            raise ValueError(
                f"supervised_start: text {index} is {texts[index]!r} with prompt {heads[index]!r}, "
                f"max_length {max_length}; expected it to start with the prompt's tokens and to go on. Fix "
                "the pair, or raise max_length."
            )
        labels = ids.clone()
        labels[:first] = IGNORED
        examples.append((ids, labels))
    return examples


def _shuffled_forever(count: int, seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _batch_loss(model: PreTrainedModel, batch: Sequence[tuple[Tensor, Tensor]], pad_id: int) -> Tensor:
    """Mean next-token cross entropy of one batch, padded on the right to its longest text; scalar, nats."""
    ids, labels = zip(*batch, strict=True)
    pad = torch.nn.utils.rnn.pad_sequence
    input_ids = pad(list(ids), batch_first=True, padding_value=pad_id).to(model.device)
    targets = pad(list(labels), batch_first=True, padding_value=IGNORED).to(model.device)
    lengths = torch.tensor([len(row) for row in ids], device=model.device)
    attention_mask = torch.arange(input_ids.shape[1], device=model.device) < lengths[:, None]
    logits = model(input_ids=input_ids, attention_mask=attention_mask.long(), use_cache=False).logits
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten())
