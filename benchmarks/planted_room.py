"""The planted benchmark's room: data and reference of a seed, an experiment, and its plain training loop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sparsepo_plugin import registry
from sparsepo_plugin.configured_loss import ConfiguredLoss, reference_shape
from sparsepo_plugin.demo import language, tiny
from sparsepo_plugin.demo.supervised import supervised_start
from sparsepo_plugin.forward.activations import Recorder, find_sites
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX, token_stats
from sparsepo_plugin.types import LossOutput, Masks, ReferenceState, TokenStats

TRAIN, HELD_OUT, STEPS, BATCH, RATE = 600, 200, 180, 16, 3e-4
# Numbers of the tokens of chosen and of rejected response, by pair.
Scores = dict[language.Pair, tuple[list[float], list[float]]]


class Lab(NamedTuple):
    """Everything of one seed that all runs share."""

    reference: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    train: list[language.Pair]
    held_out: list[language.Pair]
    recorder: Recorder


@functools.lru_cache(maxsize=1)
def lab(seed: int) -> Lab:
    """Build data and reference of a seed."""
    tokenizer = tiny.build_tokenizer(language.vocabulary())
    reference = tiny.build_model(tokenizer, seed=seed)
    start = language.generate_pairs(600, 1000 + seed)
    texts = [pair.prompt + side for pair in start for side in (pair.chosen, pair.rejected)]
    supervised_start(
        reference, tokenizer, texts, steps=300, batch_size=32, learning_rate=1e-2, seed=seed, max_length=64,
        progress=False,
    )  # fmt: skip
    reference.eval().requires_grad_(False)
    pairs = language.generate_pairs(TRAIN + HELD_OUT, 2000 + seed)
    return Lab(reference, tokenizer, pairs[:TRAIN], pairs[TRAIN:], Recorder(reference, find_sites(reference)))


def batch_of(tokenizer: PreTrainedTokenizerFast, pairs: list[language.Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, labels and planted flags of the responses, each [2 * pairs, seq], chosen rows first."""
    texts = [(p.prompt, p.chosen, p.chosen_planted) for p in pairs]
    texts += [(p.prompt, p.rejected, p.rejected_planted) for p in pairs]
    rows, labels, planted = [], [], []
    for prompt, response, flags in texts:
        head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = tokenizer(prompt + response, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        rows.append(torch.tensor(ids))
        labels.append(torch.tensor([IGNORE_INDEX] * len(head) + ids[len(head) :]))
        planted.append(torch.tensor([False] * len(head) + [*flags, False]))
    pad = torch.nn.utils.rnn.pad_sequence
    return (
        pad(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
        pad(labels, batch_first=True, padding_value=IGNORE_INDEX),
        pad(planted, batch_first=True, padding_value=False),
    )


class Batch(NamedTuple):
    """What one forward pass over a batch of pairs gives; ``planted`` is [2 * pairs, seq - 1]."""

    stats: TokenStats
    masks: Masks
    output: LossOutput
    planted: Tensor


class Experiment(NamedTuple):
    """A row of RUNS under way.

    With ``oracle`` the reward mask is the planted tokens themselves; ``scores`` are the data's numbers of the
    tokens of chosen and of rejected response, by pair.
    """

    room: Lab
    objective: ConfiguredLoss
    beta: float
    masks: nn.Module
    policy: PreTrainedModel
    seed: int
    oracle: bool
    scores: Scores | None = None


def evaluate(test: Experiment, pairs: list[language.Pair]) -> Batch:
    """Run both models on a batch of pairs."""
    room = test.room
    ids, labels, planted = batch_of(room.tokenizer, pairs)
    attention = (ids != room.tokenizer.pad_token_id).long()
    with torch.no_grad():
        seen = room.reference(ids, attention_mask=attention, output_hidden_states=True)
    needs = test.objective.needs
    output = test.policy(ids, attention_mask=attention, output_hidden_states=needs.policy_states)
    stats = token_stats(output.logits, seen.logits, labels)
    if needs.policy_states:
        stats = stats._replace(policy_states=output.hidden_states[-1][:, :-1].detach())
    if test.scores is not None:
        rows = [test.scores[pair][side] for side in (0, 1) for pair in pairs]
        weights = torch.full_like(stats.policy_logps, torch.nan)
        weights[stats.response_mask] = torch.tensor([number for row in rows for number in row])
        stats = stats._replace(token_weights=weights)
    state = ReferenceState(tuple(seen.hidden_states[1:]), stats.response_mask, ids, room.recorder.take())
    masks = Masks(planted[:, 1:].float(), None) if test.oracle else test.masks(state)
    loss = test.objective.evaluate(stats, masks, test.beta)
    return Batch(stats, loss.shown(masks), loss, planted[:, 1:])


def experiment(
    loss_name: str,
    beta: float,
    given: dict[str, Any],
    seed: int,
    *,
    oracle: bool = False,
    scores: Scores | None = None,
) -> Experiment:
    """Build policy and masks for a loss with its options; ``oracle`` and ``scores`` as in Experiment."""
    room, loss = lab(seed), registry.get(loss_name)
    objective = ConfiguredLoss(loss, loss.options.build(given), reference_shape(room.reference.config))
    policy = tiny.build_model(room.tokenizer, seed=seed)
    policy.load_state_dict(room.reference.state_dict())
    policy.requires_grad_(True)
    return Experiment(room, objective, beta, objective.build_masks(seed), policy, seed, oracle, scores)


def fit(test: Experiment, pool: list[language.Pair], look: Callable[[int], None]) -> None:
    """Train a row on pairs; ``look`` is called after every step with its number, from 1."""
    groups: list[dict[str, Any]] = [
        {"params": list(test.policy.parameters()), "lr": RATE, "weight_decay": 0.0}
    ]
    if any(True for _ in test.masks.parameters()):
        options = test.objective.options
        rate, decay = options.mask_learning_rate(RATE), options.mask_decay()
        groups.append({"params": list(test.masks.parameters()), "lr": rate, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
    generator = torch.Generator().manual_seed(test.seed)
    epochs = STEPS * BATCH // len(pool) + 1
    order = torch.cat([torch.randperm(len(pool), generator=generator) for _ in range(epochs)])
    for step in range(STEPS):
        pairs = [pool[i] for i in order[step * BATCH : (step + 1) * BATCH].tolist()]
        test.masks.train()
        test.policy.train()
        loss = evaluate(test, pairs).output.losses.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warmup.step()
        look(step + 1)
