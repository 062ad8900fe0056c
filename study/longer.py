"""Longer trainings on sentiment: whether masks get sparse, and find the reward's words, with more steps.

The sweep's trainings are short, because the policies leave every budget of nats soon. Here they go on past
it, at the settings that the sweep's validation chose and one beta, in several passes over more pairs.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from study.claims import BETA, LEARNED
from study.domain_study import chosen_settings
from study.methods import BASELINE
from study.rows import Table
from study.scales import Sentiment
from study.sentiment import Point, run_one
from study.sentiment_room import furnish


def study(root: Path, work: Path, out: Path, scale: Sentiment) -> None:
    """Do what is missing of DPO and every kind of learned mask, with every seed, on test prompts."""
    table = Table(out / "sentiment_longer.csv", ["method", "seed"])
    missing = [
        (seed, name)
        for seed in scale.seeds
        for name in (BASELINE, *LEARNED)
        if not table.has(method=name, seed=seed)
    ]
    if not missing:
        print(f"longer: nothing is missing in {out}", flush=True)
        return
    settings = chosen_settings(out, scale.budgets[-1], (BASELINE, *LEARNED))
    room = furnish(root, work, scale, Table(out / "sentiment_judges.csv", ["classifier"]))
    sizes = dataclasses.replace(scale, pairs=scale.longer_pairs, stops=scale.longer, steps=scale.longer[-1])
    for seed, name in missing:
        table.has(method=name, seed=seed)  # the clock of this run starts
        point = Point(name, float(BETA), seed, settings[name])
        table.add(run_one(room, sizes, point, ("test",), pairs_at_every_stop=True)["rows"])
        print(f"longer: {name}, seed {seed}: {table.rows[-1]['seconds']} s", flush=True)
