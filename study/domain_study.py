"""Dialogues and summaries from data to CSV: sweep on validation prompts, choice, test."""

from __future__ import annotations

from pathlib import Path

from sparsepo_plugin.errors import UserError
from study.base import base
from study.choose import Setting, chosen
from study.methods import BASELINE, METHODS
from study.preferences import furnish, sweep
from study.rows import Table, read
from study.scales import Preferences, Sentiment
from study.trial import trial


def study(name: str, data: Path, work: Path, out: Path, first: Sentiment, scale: Preferences) -> None:
    """Do what is missing of a domain; the anchor's weight is the one that sentiment's validation chose."""
    tested = Table(out / f"{name}_test.csv", ["domain", "budget"])
    if all(tested.has(domain=name, budget=budget) for budget in scale.budgets):
        print(f"{name}: nothing is missing in {out}", flush=True)
        return
    settings = chosen_settings(out, first.budgets[-1], scale.methods)
    start = base(data, work / "sentiment", first)
    room = furnish(data, work / name, name, scale, start, Table(out / "domains.csv", ["domain"]))
    table = Table(out / f"{name}.csv", ["method", "beta", "seed"])
    sweep(room, scale, settings, table)
    trial(room, name, scale, table.rows, work / name, tested)


def chosen_settings(out: Path, budget: float, methods: tuple[str, ...]) -> dict[str, Setting]:
    """Settings of all methods from the sentiment part's tuning rows.

    Raises:
      UserError: sentiment has not been tuned yet.
    """
    path = out / "sentiment_tuning.csv"
    found = chosen(read(path), read(out / "sentiment_reference.csv"), budget)
    settings = {
        name: METHODS[name].settings([found[BASELINE].rate])[0]
        if len(METHODS[name].tried) == 1
        else found[name]
        for name in methods
        if BASELINE in found and (name in found or len(METHODS[name].tried) == 1)
    }
    if missing := set(methods) - set(settings):
        raise UserError(
            f"{path}: got no rows for {', '.join(sorted(missing))}, expected the tuning of every method; "
            "run the sentiment part first"
        )
    return settings
