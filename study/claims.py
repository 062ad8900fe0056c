"""The paper's claims, each with the CSV row that speaks for or against it, and the rule of the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsepo_plugin.metrics import wilson_interval
from study.domain import DOMAINS
from study.rows import Row, number

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told at this scale"
COMMAND = "make study STUDY_PARTS={part}"


@dataclass(frozen=True)
class Claim:
    """One line of the verdict table.

    Attributes:
      text: what the paper claims, in our words.
      measured: what stands for it here.
      file: CSV in docs/study, without suffix.
      where: columns that pick its row.
      column: the quantity; its interval lies in column_low and column_high.
      least: the claim holds where the whole interval lies above, and fails where it lies below.
      part: of the command that writes the file.
      empty: why nothing follows here, whatever the interval says.
    """

    text: str
    measured: str
    file: str
    where: Mapping[str, str]
    column: str
    least: float
    part: str = "sentiment"
    empty: str = ""


def _frontier(method: str, budget: str, over: str, column: str = "reward") -> dict[str, Any]:
    where = {"method": method, "budget": budget}
    return {"file": "sentiment_frontier", "where": where, "column": f"{column}_over_{over}", "least": 0.0}


BETA = "0.8"


def _weights(method: str, column: str, least: float) -> dict[str, Any]:
    where = {"method": method, "beta": BETA}
    return {"file": "sentiment_weights", "where": where, "column": column, "least": least}


def _domain(name: str, method: str, quantity: str, column: str, least: float, budget: str) -> dict[str, Any]:
    where = {"method": method, "quantity": quantity, "budget": budget}
    where["temperature"] = "" if quantity.startswith("accuracy") else "1"
    return {"file": f"{name}_test", "where": where, "column": column, "least": least, "part": name}


EQUAL = "tokens should not weigh equally"
BETTER = "better reward than DPO at equal KL"
BESIDE = "masks help beside an anchor too (ours)"
CHECK = "the gain is no trick on the reward"
SPARSE = "learned masks become sparse"
FIND = "masks find the tokens that matter"
LEARNED = {
    "sparsepo common, paper": "common mask as published",
    "sparsepo independent, paper": "independent masks as published",
    "sparsepo common": "common mask, our defaults",
    "sparsepo independent": "independent masks, our defaults",
}
OURS = "sparsepo common"


def claims(budgets: Sequence[str], last: str, end: str, blind: Sequence[str] = ()) -> list[Claim]:
    """All claims.

    Args:
      budgets: nats at which sentiment was compared, as the CSV has them.
      last: largest budget of the domains.
      end: last step of the longer trainings.
      blind: domains whose reward model is not above chance on test pairs.
    """
    found = []
    for budget in budgets[1:]:
        at = f"P(positive) of samples within {budget} nats"
        found.append(Claim(EQUAL, f"{at}, common mask (ours) - tdpo1", **_frontier(OURS, budget, "tdpo1")))
        for method, name in (*LEARNED.items(), ("mapo", "MaPO")):
            found.append(Claim(BETTER, f"{at}, {name} - dpo", **_frontier(method, budget, "dpo")))
        beside = _frontier("sparsepo + anchor", budget, "dpo_anchor")
        found.append(Claim(BESIDE, f"{at}, common mask and anchor - dpo and anchor", **beside))
        check = _frontier(OURS, budget, "dpo", "check")
        found.append(Claim(CHECK, f"{at} by the second classifier, common mask (ours) - dpo", **check))
    for method, name in LEARNED.items():
        what = f"share of tokens at 0 at beta {BETA}, {name}; at least .1"
        found.append(Claim(SPARSE, what, **_weights(method, "sparsity", 0.1)))
    for method, name in LEARNED.items():
        what = f"share of tokens at 0 after {end} steps, {name}; at least .1"
        where = {"method": method, "step": end}
        row: dict[str, Any] = {"file": "sentiment_longer_weights", "where": where, "column": "sparsity"}
        found.append(Claim(SPARSE, what, **row, least=0.1, part="longer"))
    for method, name in (*LEARNED.items(), ("mapo", "MaPO")):
        what = f"AUC of the reward's words by mask at beta {BETA}, {name}; chance is .5"
        found.append(Claim(FIND, what, **_weights(method, "mask_auc", 0.5)))
    what = "that AUC, common mask (ours) - absolute log-ratio of dpo"
    found.append(
        Claim("masks find them better than DPO itself", what, **_weights(OURS, "mask_over_ratio", 0.0))
    )
    for name, domain in DOMAINS.items():
        found += _of_domain(name, domain.claimed, last, BLIND if name in blind else "")
    return found + _kept()


BLIND = "the reward model is at chance on people's pairs, so that its wins say nothing"


def blind_domains(rows: Sequence[Row]) -> list[str]:
    """Domains whose reward model's accuracy on test pairs has a 95 % interval that reaches one half."""
    return [
        row["domain"]
        for row in rows
        if wilson_interval(float(row["accuracy_test"]), int(row["test_pairs"]))[0] <= 0.5
    ]


def _of_domain(name: str, points: float, budget: str, empty: str) -> list[Claim]:
    """Accuracy and win rates of one domain; ``empty`` says why its win rates mean nothing."""
    better, win = f"{name}: better than DPO", "win over the reference"
    what = f"held-out pairs ranked right, {name}, common mask (ours) - dpo"
    accuracy = _domain(name, OURS, "accuracy, masks removed", "difference", 0.0, budget)
    found = [Claim(better, what, **accuracy)]
    what = f"win rate over the supervised model, {name}, common mask (ours) - dpo"
    found.append(Claim(better, what, **_domain(name, OURS, win, "difference", 0.0, budget), empty=empty))
    text = f"{name}: {points * 100:.0f} points of win rate over DPO's"
    claimed = _domain(name, OURS, win, "difference", points, budget)
    found.append(Claim(text, f"{what}; at least {points:.2f}", **claimed, empty=empty))
    duel = _domain(name, OURS, "win over dpo", "mean", 0.5, budget)
    what = f"win rate over dpo itself, {name}, common mask (ours); even is .5"
    found.append(Claim(better, what, **duel, empty=empty))
    return found


GATES = {
    "reasoning": ("arc_challenge", "hellaswag", "bbh", "mmlu"),
    "faithfulness": ("names", "numbers"),
}
CHANCE = "before training the model is at chance, so that nothing can be lost"


def _kept() -> list[Claim]:
    """The gates of both suites in every domain."""
    found = []
    cells = [(suite, name, gate) for suite, gates in GATES.items() for name in DOMAINS for gate in gates]
    for suite, name, gate in cells:
        where = {"domain": name, "method": OURS, "suite": suite, "gate": gate}
        what = f"gate {gate} after {name}: after - before + margin, common mask (ours)"
        empty = CHANCE if suite == "reasoning" else ""
        row: dict[str, Any] = {"file": "capability", "where": where, "column": "over_margin", "least": 0.0}
        found.append(Claim(f"{suite} is kept", what, **row, part="capability", empty=empty))
    return found


def verdict(claim: Claim, low: float | None, high: float | None, seeds: Sequence[float] = ()) -> str:
    """The rule: decided only where the whole 95 % interval lies on one side, and the means of all seeds do.

    Args:
      claim: the line of the table.
      low: end of the interval.
      high: its other end.
      seeds: means of the seeds (or their least and largest), where the interval does not know of seeds.
    """
    if claim.empty or low is None or high is None:
        return OPEN
    low, high = min([low, *seeds]), max([high, *seeds])
    if low > claim.least:
        return HOLDS
    return FAILS if high < claim.least else OPEN


def judged(made: Sequence[Claim], tables: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Verdict rows; a claim whose row is not there (a small study) is left out."""
    found = []
    for claim in made:
        rows = [
            row
            for row in tables.get(claim.file, ())
            if all(_same(row.get(name, ""), value) for name, value in claim.where.items())
        ]
        column = claim.column if claim.column != "difference" else "difference_mean"
        stem = claim.column if claim.column not in ("mean",) else ""
        if not rows or number(rows[0], column) is None:
            continue
        ends = ("low", "high", "least_seed", "most_seed")
        low, high, *seeds = (number(rows[0], f"{stem}_{end}" if stem else end) for end in ends)
        agreed = [seed for seed in seeds if seed is not None]
        found.append(
            {
                "claim": claim.text, "measured": claim.measured, "value": rows[0][column],
                "low": "" if low is None else low, "high": "" if high is None else high, "least": claim.least,
                "verdict": verdict(claim, low, high, agreed), "why": claim.empty, "file": f"{claim.file}.csv",
                "row": " and ".join(f"{name}={value}" for name, value in claim.where.items()),
                "column": column, "command": COMMAND.format(part=claim.part),
            }
        )  # fmt: skip
    return found


def _same(found: str, wanted: str) -> bool:
    try:
        return float(found) == float(wanted)
    except ValueError:
        return found == wanted
