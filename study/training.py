"""Train one method in a plain loop, with the project's own losses, masks and token statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from sparsepo_plugin import registry
from sparsepo_plugin.configured_loss import ConfiguredLoss, reference_shape
from sparsepo_plugin.forward.statistics.reference import token_stats
from sparsepo_plugin.types import LossOutput, Masks, TokenStats
from study.language import Language, copy_of
from study.prepared import Batch, Prepared

WARMUP = 0.1


@dataclass(frozen=True)
class Plan:
    """How a run trains: everything besides the method's own options."""

    beta: float
    rate: float
    steps: int
    batch: int
    seed: int


@dataclass
class Run:
    """A policy under training with its masks."""

    objective: ConfiguredLoss
    plan: Plan
    policy: PreTrainedModel
    masks: nn.Module

    def forward(self, batch: Batch) -> tuple[TokenStats, Masks, LossOutput]:
        """Statistics, masks and loss of a batch of pairs."""
        needs = self.objective.needs
        output = self.policy(batch.ids, use_cache=False, output_hidden_states=needs.policy_states)
        # Without need the KL is not computed; the reference's log-probabilities cost nothing here.
        stats = token_stats(output.logits, batch.reference_logits, batch.labels, with_kl=needs.token_kl)
        stats = stats._replace(token_weights=batch.token_weights)
        if needs.policy_states:
            stats = stats._replace(policy_states=output.hidden_states[-1][:, :-1].detach())
        masks = self.masks(batch.state)
        return stats, masks, self.objective.evaluate(stats, masks, self.plan.beta)


def start(language: Language, loss: str, options: Mapping[str, Any], plan: Plan) -> Run:
    """A run before its first step."""
    found = registry.get(loss)
    shape = reference_shape(language.model.config)
    objective = ConfiguredLoss(found, found.options.build(options), shape)
    return Run(objective, plan, copy_of(language), objective.build_masks(plan.seed))


def train(run: Run, data: Prepared, stops: Iterable[int], look: Callable[[int], None]) -> None:
    """Train in place and call ``look`` after the steps in ``stops``.

    AdamW, warm-up over the first tenth of the steps, then a constant rate: a decay would make the points of
    one run incomparable.
    """
    plan, stops = run.plan, set(stops)
    optimizer = torch.optim.AdamW(_groups(run))
    warmup = max(1, int(WARMUP * plan.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
    generator = torch.Generator().manual_seed(plan.seed)
    order: list[int] = []
    for step in range(1, plan.steps + 1):
        while len(order) < plan.batch:
            order += torch.randperm(len(data), generator=generator).tolist()
        chosen, order = order[: plan.batch], order[plan.batch :]
        run.policy.train()
        run.masks.train()
        loss = run.forward(data.batch(chosen))[2].losses.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step in stops:
            run.policy.eval()
            run.masks.eval()
            look(step)


def _groups(run: Run) -> list[dict[str, Any]]:
    """Policy without decay; mask weights with theirs, biases and norms without."""
    groups = [{"params": list(run.policy.parameters()), "lr": run.plan.rate, "weight_decay": 0.0}]
    options, masks = run.objective.options, run.masks
    decayed = set(masks.decayed_parameters()) if hasattr(masks, "decayed_parameters") else set()
    parameters = list(masks.parameters())
    for members, decay in (
        ([p for p in parameters if p in decayed], options.mask_decay()),
        ([p for p in parameters if p not in decayed], 0.0),
    ):
        if members:
            rate = options.mask_learning_rate(run.plan.rate)
            groups.append({"params": members, "lr": rate, "weight_decay": decay})
    return groups
