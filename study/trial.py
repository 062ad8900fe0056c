"""Dialogue and summaries, second part: the chosen policies on the test split, looked at once.

Each method's policies of the chosen beta and step (the same for all seeds) answer test prompts; the reward
model compares their responses with the reference's, with the chosen responses of people, and with DPO's. The
outcome of every item is kept in the work folder; the CSV gets means with intervals, clustered by prompt after
averaging over seeds; beside them stand the means of the lowest and of the highest seed.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import write_text
from study.frontier import interval
from study.measure import held_out
from study.methods import BASELINE, METHODS
from study.preferences import Room, draw, policy_file, wins
from study.prepared import TokenPair, prepare
from study.rows import Row, Table
from study.scales import Preferences
from study.select_policies import Choice, select
from study.training import Plan, Run, start

QUANTITIES = {
    "reference": "win over the reference",
    "people": "win over people's chosen",
    "length": "tokens",
}
Items = dict[str, Any]


class Clusters(NamedTuple):
    """What belongs together: the prompt of every test pair, and of every response."""

    pairs: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]

    def labels(self) -> tuple[list[Hashable], list[Hashable]]:
        """As labels."""
        return [tuple(prompt) for prompt in self.pairs], [tuple(prompt) for prompt in self.responses]


def policy_of(room: Room, name: str, tried: dict[str, Any], choice: Choice, seed: int) -> Run:
    """A kept policy with its masks."""
    method = METHODS[name]
    plan = Plan(choice.beta, 0.0, 0, 0, seed)
    run = start(room.language, method.loss, {**method.options, **tried}, plan)
    path = policy_file(room.policies, name, choice.beta, seed, choice.step)
    if not path.is_file():
        raise UserError(
            f"{path}: no such policy, though the sweep names it; expected the work folder of that sweep; "
            "name it with --work, or another --out to start anew"
        )
    state = torch.load(path, weights_only=True)
    run.policy.load_state_dict(state["policy"])
    run.masks.load_state_dict(state["masks"])
    run.policy.eval()
    run.masks.eval()
    return run


def trial(room: Room, name: str, scale: Preferences, sweep: list[Row], work: Path, out: Table) -> None:
    """Compare the chosen policies of every budget; rows for every quantity, temperature and opponent."""
    tried = {row["method"]: json.loads(row["tried"]) for row in sweep}
    for budget in scale.budgets:
        if out.has(domain=name, budget=budget):
            continue
        chosen = select(sweep, budget)
        temperatures = scale.temperatures if budget == scale.budgets[-1] else (1.0,)
        items: dict[str, list[Items]] = {}
        for method, choice in chosen.items():
            items[method] = []
            for seed in scale.seeds:
                kept = policy_file(room.policies, method, choice.beta, seed, choice.step)
                path = work / "items" / f"{budget:g}-{kept.stem}.json"
                if not path.is_file():
                    run = policy_of(room, method, tried[method], choice, seed)
                    write_text(path, json.dumps(answers(room, run, scale, temperatures)))
                items[method].append(json.loads(path.read_text(encoding="utf-8")))
            print(f"tested {name}, {budget:g} nats: {method} {choice}", flush=True)
        test = room.splits["test"]
        clusters = Clusters(
            [tuple(pair.prompt) for pair in test.pairs], test.prompts(scale.test) * scale.draws
        )
        rows = compare(items, clusters, temperatures)
        out.add(
            {"domain": name, "budget": budget, **row, "beta": chosen[row["method"]].beta,
             "step": chosen[row["method"]].step} for row in rows
        )  # fmt: skip


def answers(room: Room, run: Run, scale: Preferences, temperatures: tuple[float, ...]) -> Items:
    """What one policy does on the test split, item by item."""
    pairs = room.splits["test"].pairs
    found: Items = {"accuracy": _accuracies(room, run, pairs)}
    prompts = room.splits["test"].prompts(scale.test) * scale.draws
    first = {tuple(pair.prompt): pair for pair in reversed(pairs)}
    chosen = room.reward.scores(prompts, [first[tuple(prompt)].chosen for prompt in prompts])
    for temperature in temperatures:
        seed = 500 + run.plan.seed
        ours = draw(room, run.policy, prompts, seed, temperature)
        theirs = room.of_reference(prompts, seed, temperature)
        if temperature == 1:
            found["kl"] = ours.kl.tolist()
        found[f"{temperature:g}"] = {
            "scores": ours.scores.tolist(),
            "length": ours.lengths.tolist(),
            "reference": wins(ours.scores, theirs.scores).tolist(),
            "people": wins(ours.scores, chosen).tolist(),
        }
    return found


def _accuracies(room: Room, run: Run, pairs: list[TokenPair]) -> list[float]:
    """Whether the chosen response has the higher log-ratio, masks removed; a tie counts one half."""
    _, parts = held_out(run, prepare(room.language, pairs))
    margins = []
    for part in parts:
        stats = part.stats
        assert stats.reference_logps is not None
        chosen, rejected = (stats.policy_logps - stats.reference_logps).sum(-1).chunk(2)
        margins.append(chosen - rejected)
    margin = torch.cat(margins)
    return wins(margin, torch.zeros_like(margin)).tolist()


def _by_seed(items: list[Items], *keys: str) -> Tensor:
    """A quantity, [seeds, items]."""
    columns = []
    for one in items:
        value: Any = one
        for key in keys:
            value = value[key]
        columns.append(torch.tensor(value))
    return torch.stack(columns)


def compare(
    items: dict[str, list[Items]], clusters: Clusters, temperatures: tuple[float, ...]
) -> list[dict[str, Any]]:
    """Every quantity of every method, and its difference to DPO, with 95 % intervals over prompts."""
    rows = []
    pairs, responses = clusters.labels()
    for method, mine in items.items():
        base = items.get(BASELINE) if method != BASELINE else None
        about = {"method": method, "seeds": len(mine), "kl": float(_by_seed(mine, "kl").mean())}
        named = {("accuracy, masks removed", ""): ("accuracy",)}
        for temperature in map("{:g}".format, temperatures):
            for key, quantity in QUANTITIES.items():
                named[quantity, temperature] = (temperature, key)
        for (quantity, temperature), keys in named.items():
            labels = pairs if keys == ("accuracy",) else responses
            numbers = _numbers("", _by_seed(mine, *keys), labels)
            if base:
                numbers |= _numbers("difference_", _by_seed(mine, *keys) - _by_seed(base, *keys), labels)
            rows.append({**about, "quantity": quantity, "temperature": temperature, **numbers})
        if base:
            rows += [_duel(about, mine, base, f"{temperature:g}", responses) for temperature in temperatures]
    return rows


def _numbers(prefix: str, values: Tensor, labels: Sequence[Hashable]) -> dict[str, float]:
    """Mean, interval, number of clusters, and the least and the largest mean of a seed, as columns.

    Args:
      prefix: of the columns.
      values: [seeds, items].
      labels: cluster of every item.
    """
    found = interval(values.mean(0).tolist(), labels)
    seeds = values.mean(1)
    columns = [*found, float(seeds.min()), float(seeds.max())]
    names = ("mean", "low", "high", "clusters", "least_seed", "most_seed")
    return {f"{prefix}{name}": value for name, value in zip(names, columns)}


def _duel(
    about: dict[str, Any], mine: list[Items], base: list[Items], temperature: str, labels: Sequence[Hashable]
) -> dict[str, Any]:
    """Win rate over DPO itself, response against response of the same prompt and seed."""
    outcomes = [
        wins(torch.tensor(a[temperature]["scores"]), torch.tensor(b[temperature]["scores"]))
        for a, b in zip(mine, base)
    ]
    numbers = _numbers("", torch.stack(outcomes), labels)
    return {**about, "quantity": "win over dpo", "temperature": temperature, **numbers}
