"""Sentiment: reward against KL for every method, sparsity against beta, and the weighted tokens.

A language model is trained on film reviews, continuations are sampled from it, a classifier labels pairs of
them, and every method trains on the pairs. Settings are chosen on validation prompts; the test prompts are
looked at in the sweep only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from study.choose import Setting, chosen
from study.measure import by_token, finding, held_out, mean_and_error, summary
from study.methods import BASELINE, METHODS, RATES
from study.pairs import texts_of
from study.rows import Row, Table
from study.sampling import sample
from study.scales import TUNING_SEED, Sentiment
from study.sentiment_room import Room, furnish
from study.training import Plan, Run, start, train

LISTED = 20
TOKENS_AT = 2  # place in a method's betas at which weighted tokens are listed


class Point(NamedTuple):
    """One run to do."""

    method: str
    beta: float
    seed: int
    setting: Setting


def run_one(
    room: Room, scale: Sentiment, point: Point, splits: tuple[str, ...], *, pairs_at_every_stop: bool = False
) -> dict[str, Any]:
    """Train and measure, on held-out pairs at the end (or every stop): the CSV's rows and the run."""
    method, (rate, tried) = METHODS[point.method], point.setting
    options = {**method.options, **tried}
    plan = Plan(point.beta, rate, scale.steps, scale.batch, point.seed)
    run = start(room.language, method.loss, options, plan)
    about = {
        "method": point.method, "beta": point.beta, "seed": point.seed, "rate": rate,
        "tried": json.dumps(dict(tried)),
    }  # fmt: skip
    rows: list[dict[str, Any]] = []

    def look(step: int) -> None:
        for split in splits:
            rows.append({**about, "split": split, "step": step, **sampled(room, scale, run, split)})
        if pairs_at_every_stop or step == scale.steps:
            rows[-1].update(on_pairs(room, run, splits[-1], point.method))

    train(run, room.training_pairs(scale.pairs, point.seed), scale.stops, look)
    return {"rows": rows, "run": run}


def sampled(
    room: Room, scale: Sentiment, run: Run | None, split: str, seed: int | None = None
) -> dict[str, Any]:
    """KL and both classifiers' probability of positive, on samples of the policy (None: of the reference)."""
    prompts, reference = room.prompts[split], room.language.model
    policy = reference if run is None else run.policy
    number = run.plan.seed if run is not None else seed or 0
    found = sample(policy, reference, prompts, length=scale.length, seed=7000 + number)
    texts = texts_of(room.language, prompts, found.tokens)
    values = {"kl": found.kl}
    for name, judge in (("reward", room.reward), ("check", room.check)):
        values[name] = torch.sigmoid(judge.logits(texts))
    row: dict[str, Any] = {}
    for name, value in values.items():
        row[name], row[f"{name}_error"] = mean_and_error(value)
    return row


def on_pairs(room: Room, run: Run, split: str, name: str) -> dict[str, Any]:
    """Metrics on held-out pairs, and how well mask and log-ratio find the words that the reward weighs."""
    values, parts = held_out(run, room.held_out[split])
    masks, ratios, response, important = weights(room, run, split, parts)
    found: dict[str, Any] = {
        **summary(values),
        "ratio_auc": finding(ratios, important, response),
    }
    if METHODS[name].weighted or METHODS[name].loss == "sparsepo":
        found["mask_auc"] = finding(masks, important, response)
    return found


def weights(room: Room, run: Run, split: str, parts: list[Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reward mask, absolute log-ratio, response mask and importance of held-out pairs, [rows, seq - 1]."""

    # Parts hold chosen rows first; the importance lies in the order of the whole batch.
    def join(values: list[Tensor]) -> Tensor:
        return torch.cat([v.chunk(2)[0] for v in values] + [v.chunk(2)[1] for v in values])

    stats = [part.stats for part in parts]
    ratios = [(s.policy_logps - s.reference_logps).abs() for s in stats if s.reference_logps is not None]
    return (
        join([part.masks.reward_mask for part in parts]),
        join(ratios),
        join([s.response_mask for s in stats]),
        room.important[split][:, 1:],
    )


def tokens(room: Room, run: Run, point: Point) -> list[dict[str, Any]]:
    """Most and least weighted tokens on the test pairs: by mask, and for DPO by absolute log-ratio."""
    _, parts = held_out(run, room.held_out["test"])
    masks, ratios, response, _ = weights(room, run, "test", parts)
    ready = room.held_out["test"]
    targets = ready.batch(range(len(ready))).ids[:, 1:]
    weighted = METHODS[point.method].weighted
    about = {"method": point.method, "beta": point.beta, "seed": point.seed}
    by = {"by": "mask" if weighted else "log-ratio"}
    found = by_token(room.language.tokenizer, targets, masks if weighted else ratios, response, LISTED)
    return [{**about, **by, **row} for row in found]


def study(root: Path, work: Path, out: Path, scale: Sentiment) -> None:
    """Do what is missing: classifiers, tuning on validation prompts, the sweep, token lists."""
    sweeps = Table(out / "sentiment.csv", ["method", "beta", "seed"])
    if all(sweeps.has(method=m, beta=b, seed=s) for m, b, s in planned(scale)):
        print(f"sentiment: nothing is missing in {out}", flush=True)
        return
    work.mkdir(parents=True, exist_ok=True)
    room = furnish(root, work, scale, Table(out / "sentiment_judges.csv", ["classifier"]))
    tuning = Table(out / "sentiment_tuning.csv", ["method", "rate", "tried"])
    references = Table(out / "sentiment_reference.csv", ["seed"])
    for seed in (TUNING_SEED, *scale.seeds):
        if not references.has(seed=seed):
            splits = ("validation",) if seed == TUNING_SEED else ("validation", "test")
            rows = [{"seed": seed, "split": s, **sampled(room, scale, None, s, seed)} for s in splits]
            references.add(rows)
    lists = Table(out / "sentiment_tokens.csv", ["method", "beta", "seed"])
    sweep(room, scale, sweeps, lists, tune(room, scale, tuning, references.rows))


ORDER = (1, 2, 0, 3)  # the betas in the middle first: what an interrupted study has should be the likely best


def planned(scale: Sentiment) -> list[tuple[str, float, int]]:
    """Method, beta and seed of every run, all methods and seeds of one beta before the next."""
    return [
        (name, METHODS[name].betas[place], seed)
        for place in ORDER
        if place < scale.betas
        for seed in scale.seeds
        for name in scale.methods
    ]


def tune(room: Room, scale: Sentiment, table: Table, references: list[Row]) -> dict[str, Setting]:
    """Choose the rate by DPO and options by their method, at one beta, on validation prompts alone."""
    settings: dict[str, Setting] = {}
    for name in sorted(scale.methods, key=lambda name: name != BASELINE):
        method = METHODS[name]
        options = method.settings(RATES if name == BASELINE else [settings[BASELINE].rate])
        if len(options) == 1:
            settings[name] = options[0]
            continue
        for setting in options:
            if not table.has(method=name, rate=setting.rate, tried=json.dumps(dict(setting.tried))):
                point = Point(name, method.tuned_at, TUNING_SEED, setting)
                table.add(run_one(room, scale, point, ("validation",))["rows"])
                print(f"tuned {name}: {setting}", flush=True)
        settings[name] = chosen(table.rows, references, scale.budgets[-1])[name]
    return settings


def sweep(room: Room, scale: Sentiment, table: Table, lists: Table, settings: dict[str, Setting]) -> None:
    """Every method with every beta and seed, on validation and test prompts."""
    for name, beta, seed in planned(scale):
        if table.has(method=name, beta=beta, seed=seed):
            continue
        method, point = METHODS[name], Point(name, beta, seed, settings[name])
        done = run_one(room, scale, point, ("validation", "test"))
        table.add(done["rows"])
        listed = method.betas[min(TOKENS_AT, scale.betas - 1)]
        if beta == listed and (method.weighted or name == BASELINE):
            lists.add(tokens(room, done["run"], point))
        print(f"{name}, beta {beta:g}, seed {seed}: {table.rows[-1]['seconds']} s", flush=True)
