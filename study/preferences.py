"""Dialogue and summaries, first part: every method, beta and seed, looked at on validation prompts only.

A reward model, trained on pairs that no policy sees, says which of two responses is better. Policies within
the largest budget of nats are kept; which of them go to the test is decided by validation data (``select``).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from study.choose import Setting
from study.domain import DOMAINS, Split, splits
from study.language import Language, tune
from study.measure import mean_and_error
from study.methods import METHODS
from study.prepared import prepare
from study.reward_model import RewardModel, reward_model
from study.rows import Table
from study.sampling import sample
from study.scales import Preferences
from study.training import Plan, Run, start, train


class Drawn(NamedTuple):
    """Responses to prompts: KL(policy || reference) in nats, score, and length in tokens, each [prompts]."""

    kl: Tensor
    scores: Tensor
    lengths: Tensor


class Room(NamedTuple):
    """Everything that all runs of a domain share."""

    language: Language
    reward: RewardModel
    splits: dict[str, Split]
    response: int
    policies: Path
    drawn: dict[tuple[int, float], Drawn]

    def of_reference(self, prompts: list[list[int]], seed: int, temperature: float) -> Drawn:
        """The reference's responses to the test prompts, drawn once per seed and temperature."""
        if (seed, temperature) not in self.drawn:
            self.drawn[seed, temperature] = draw(self, self.language.model, prompts, seed, temperature)
        return self.drawn[seed, temperature]


def furnish(
    root: Path, work: Path, name: str, scale: Preferences, start_from: Language, table: Table
) -> Room:
    """Supervised model of the domain and its reward model, trained or loaded."""
    domain = DOMAINS[name]
    parts = splits(root, domain, start_from.tokenizer)
    rows = [pair.prompt + pair.chosen for part in ("policy", "reward") for pair in parts[part].pairs]
    size = scale.supervised._replace(window=domain.prompt + domain.response)
    language = tune(work / "reference", start_from, rows, size, 0)
    reward = reward_model(
        work / "reward.json", language.tokenizer, parts["reward"].pairs, parts["validation"].pairs
    )
    if not table.has(domain=name):
        # A judge that prefers the longer response is what the reward model has to beat.
        held = parts["test"].pairs
        longer = [(len(p.chosen) > len(p.rejected)) + (len(p.chosen) == len(p.rejected)) / 2 for p in held]
        about: dict[str, Any] = {
            "domain": name,
            "language_loss": (work / "reference/loss.txt").read_text().strip(),
        }
        counts = {f"{part}_pairs": len(split.pairs) for part, split in parts.items()}
        accuracy = {f"accuracy_{part}": reward.accuracy(parts[part].pairs) for part in ("validation", "test")}
        table.add([{**about, **counts, **accuracy, "longer_is_better": sum(longer) / len(longer)}])
    return Room(language, reward, parts, domain.response, work / "policies", {})


def draw(room: Room, policy: Any, prompts: list[list[int]], seed: int, temperature: float = 1.0) -> Drawn:
    """Sample and score; policies with equal seeds share their random numbers."""
    tokenizer = room.language.tokenizer
    found = sample(
        policy, room.language.model if temperature == 1 else None, prompts, length=room.response, seed=seed,
        temperature=temperature, stop=tokenizer.eos_token_id, pad=int(tokenizer.pad_token_id),
    )  # fmt: skip
    scores = room.reward.scores(prompts, found.tokens.tolist())
    return Drawn(found.kl, scores, (found.tokens != tokenizer.pad_token_id).sum(-1).float())


def wins(ours: Tensor, theirs: Tensor) -> Tensor:
    """1 where ours scores higher, one half at a tie."""
    return (ours > theirs).float() + 0.5 * (ours == theirs).float()


def sweep(room: Room, scale: Preferences, settings: dict[str, Setting], table: Table) -> None:
    """Train every method with every beta and seed; rows for every stop, on validation prompts."""
    prompts = room.splits["validation"].prompts(scale.validation)
    for seed in scale.seeds:
        reference = draw(room, room.language.model, prompts, seed)
        for place in range(scale.betas):
            for name in scale.methods:
                beta = METHODS[name].betas[place]
                if table.has(method=name, beta=beta, seed=seed):
                    continue
                plan = Plan(beta, scale.rate, scale.steps, scale.batch, seed)
                table.add(_run(room, scale, name, plan, settings[name], prompts, reference))
                print(f"{name}, beta {beta:g}, seed {seed}: {table.rows[-1]['seconds']} s", flush=True)


def _run(
    room: Room, scale: Preferences, name: str, plan: Plan, setting: Setting, prompts: list[list[int]],
    reference: Drawn,
) -> list[dict[str, Any]]:  # fmt: skip
    """One run: train, look at every stop, keep the policy where it is within the largest budget."""
    run = start(room.language, METHODS[name].loss, {**METHODS[name].options, **setting.tried}, plan)
    pool = room.splits["policy"].pairs
    mine = random.Random(1000 + plan.seed).sample(pool, min(scale.pairs, len(pool)))
    about = {"method": name, "beta": plan.beta, "seed": plan.seed, "rate": plan.rate}
    about["tried"] = json.dumps(dict(setting.tried))
    rows: list[dict[str, Any]] = []

    def look(step: int) -> None:
        found = draw(room, run.policy, prompts, plan.seed)
        row: dict[str, Any] = {**about, "step": step}
        row["kl"], row["kl_error"] = mean_and_error(found.kl)
        row["gain"], row["gain_error"] = mean_and_error(found.scores - reference.scores)
        row["win"], row["win_error"] = mean_and_error(wins(found.scores, reference.scores))
        row["length"], row["reference_length"] = float(found.lengths.mean()), float(reference.lengths.mean())
        rows.append(row)
        if row["kl"] <= max(scale.budgets):
            keep(room, name, plan, step, run)

    train(run, prepare(room.language, mine), scale.stops, look)
    return rows


def policy_file(folder: Path, name: str, beta: float, seed: int, step: int) -> Path:
    """Where a policy lies."""
    return folder / f"{name.replace(' ', '_').replace(',', '')}-{beta:g}-{seed}-{step}.pt"


def keep(room: Room, name: str, plan: Plan, step: int, run: Run) -> None:
    """Write a policy with its masks."""
    path = policy_file(room.policies, name, plan.beta, plan.seed, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"policy": run.policy.state_dict(), "masks": run.masks.state_dict()}, path)
