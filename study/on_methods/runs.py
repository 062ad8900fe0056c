"""One run: a method trained on a seed's pairs, and samples of its policy after every stop."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from study.on_methods.plan import METHODS, REFERENCE, Sizes
from study.on_methods.room import Lot, Room
from study.pairs import texts_of
from study.sampling import sample
from study.training import Plan, Run, start, train

Found = list[dict[str, Any]]


def run(room: Room, lot: Lot, sizes: Sizes, name: str, beta: float, seed: int) -> Found:
    """Rows of one run, per stop and split; all have the processor's seconds of the whole run."""
    method, began = METHODS[name], time.process_time()
    plan = Plan(beta, sizes.rate, sizes.stops[-1], sizes.batch, seed)
    made = start(room.language, method.loss, method.options, plan)
    rows: Found = []

    def look(step: int) -> None:
        about = {"method": name, "beta": beta, "seed": seed, "step": step}
        rows.extend({**about, **found} for found in sampled(room, sizes, made, seed))

    train(made, lot.of(name), sizes.stops, look)
    spent = time.process_time() - began
    return [{**row, "processor_seconds": round(spent, 2)} for row in rows]


def reference(room: Room, sizes: Sizes, seed: int) -> Found:
    """Rows of the reference with a seed's random numbers: where every run of the seed starts."""
    about = {"method": REFERENCE, "beta": 0.0, "seed": seed, "step": 0}
    return [{**about, **found} for found in sampled(room, sizes, None, seed)]


def sampled(room: Room, sizes: Sizes, made: Run | None, seed: int) -> Found:
    """KL and both classifiers' probability of positive on samples, per split; None: of the reference.

    One continuation per prompt; two policies of a seed get the same random numbers. Test rows also hold the
    reward's mean of every block of prompts, in the order of the prompts.
    """
    prompts, base = [*room.validation, *room.test], room.language.model
    policy = base if made is None else made.policy
    found = sample(policy, base, prompts, length=sizes.length, seed=7000 + seed)
    texts = texts_of(room.language, prompts, found.tokens)
    reward, check = (torch.sigmoid(judge.logits(texts)) for judge in (room.reward, room.check))
    cut = len(room.validation)
    rows: Found = []
    for split, part in (("validation", slice(0, cut)), ("test", slice(cut, None))):
        means = {"kl": found.kl, "reward": reward, "check": check}
        row: dict[str, Any] = {"split": split} | {
            key: float(value[part].mean()) for key, value in means.items()
        }
        if split == "test":
            row["blocks"] = _blocks(reward[part], sizes.blocks)
        rows.append(row)
    return rows


def _blocks(values: Tensor, number: int) -> str:
    return " ".join(f"{float(value):.4f}" for value in values.view(number, -1).mean(1))
