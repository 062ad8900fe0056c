"""Which losses and masks find planted preference tokens, and what they do to the policy.

    python benchmarks/planted.py --out docs/planted.csv --table docs/planted.md

Runs every row of RUNS with every seed on the demo's language (sparsepo_plugin.demo.language): a tiny Llama is
given a supervised start, then trained with the real losses and masks in a plain loop on one thread. Finished
runs in the CSV are not repeated. The table is made from the CSV alone.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

# Run as a file, it finds its neighbours too.
sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import planted_guides
from benchmarks.planted_room import (
    HELD_OUT,
    Experiment,
    batch_of,
    evaluate,
    experiment,
    fit,
    lab,
)
from sparsepo_plugin import metrics, registry
from sparsepo_plugin.cli.losses import between
from sparsepo_plugin.configured_loss import reference_shape
from sparsepo_plugin.demo import language
from sparsepo_plugin.files import write_text
from sparsepo_plugin.forward.activations import GROUPS
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX
from sparsepo_plugin.masks.activation import activation_mask
from sparsepo_plugin.masks.learned import INITIALISATIONS
from sparsepo_plugin.types import ReferenceState
from study.on_methods import page as on_reviews
from study.on_methods import verdicts
from study.on_methods.plan import SIZES

SAMPLES = 192
# Samples are drawn at these steps, so that losses can be compared at equal distance from the reference.
SAMPLED_AT = (20, 45, 90, 180)
NATS = (0.5, 1.0, 2.0)
STARTS = 200
# Every row of SparsePO names its anchor, or a preset that does: the default has one.
ALONE = {"anchor": 0.0}
UNIT = {**ALONE, "init": "unit", "mask_lr_scale": 1.0, "normalise": "none"}
FAST = {**UNIT, "mask_lr_scale": 30.0}
L1 = {"reward_l1": 3e-3, "kl_l1": 3e-3}
LEARNED = {**FAST, **L1}
NORMALISED = {**FAST, "normalise": "mean"}
# name: (loss, beta, options). Masks are compared at one beta; losses at two.
WEIGHING = ("d2po", "lddpo", "otpo", "tisdpo", "tgdpo", "criticaldpo")
UNMASKED = ("dpo", "cdpo", "ipo", "tdpo1", "tdpo2", "dpop", "mapo")
RUNS: dict[str, tuple[str, float, dict[str, Any]]] = {
    **{f"{loss} beta {beta}": (loss, beta, {}) for loss in UNMASKED for beta in (0.1, 0.5)},
    **{f"simpo beta {beta}": ("simpo", beta, {}) for beta in (2.0, 10.0)},
    "sparsepo beta 0.1": ("sparsepo", 0.1, LEARNED),
    "sparsepo beta 0.5": ("sparsepo", 0.5, LEARNED),
    "sparsepo normalised beta 0.1": ("sparsepo", 0.1, NORMALISED),
    "sparsepo normalised beta 0.5": ("sparsepo", 0.5, NORMALISED),
    "dpo + anchor beta 0.1": ("dpo", 0.1, {"anchor": 1.0}),
    "dpo + anchor beta 0.5": ("dpo", 0.5, {"anchor": 1.0}),
    "sparsepo normalised + anchor beta 0.1": ("sparsepo", 0.1, {**NORMALISED, "anchor": 1.0}),
    "sparsepo normalised + anchor beta 0.5": ("sparsepo", 0.5, {**NORMALISED, "anchor": 1.0}),
    # The reward mask is 1 on the planted tokens and 0 elsewhere: what a mask that knows them would buy.
    "oracle beta 0.1": ("dpo", 0.1, {}),
    "oracle beta 0.5": ("dpo", 0.5, {}),
    "oracle + anchor beta 0.1": ("dpo", 0.1, {"anchor": 1.0}),
    "oracle + anchor beta 0.5": ("dpo", 0.5, {"anchor": 1.0}),
    # Methods that weigh tokens; those that read weights from the data get them from planted_guides.py.
    **{f"{loss} beta {beta}": (loss, beta, {}) for loss in WEIGHING for beta in (0.1, 0.5)},
    **{f"{loss} beta {beta}": (loss, beta, {}) for loss in ("confpo", "sepo") for beta in (2.0, 10.0)},
    **{f"{loss} + anchor beta 0.1": (loss, 0.1, {"anchor": 1.0}) for loss in WEIGHING},
    "tisdpo, guides that saw the pairs": ("tisdpo", 0.1, {}),
    "paper: common": ("sparsepo", 0.5, {"preset": "paper"}),
    "paper: independent": ("sparsepo", 0.5, {"preset": "paper", "masks": "independent"}),
    "paper, mask lr x 30": ("sparsepo", 0.5, {"preset": "paper", "mask_lr_scale": 30.0}),
    "paper, after the token": ("sparsepo", 0.5, {"preset": "paper", "token": "after"}),
    "unit": ("sparsepo", 0.5, UNIT),
    "unit, mask lr x 10": ("sparsepo", 0.5, {**UNIT, "mask_lr_scale": 10.0}),
    "unit, mask lr x 30 (F)": ("sparsepo", 0.5, FAST),
    "F, L1 (FL)": ("sparsepo", 0.5, LEARNED),
    "FL, independent": ("sparsepo", 0.5, {**LEARNED, "masks": "independent"}),
    "FL, reward only": ("sparsepo", 0.5, {**LEARNED, "mask_on": "reward"}),
    "FL, KL only": ("sparsepo", 0.5, {**LEARNED, "mask_on": "kl"}),
    "FL, last layer": ("sparsepo", 0.5, {**LEARNED, "layers": "last"}),
    "FL, first layer": ("sparsepo", 0.5, {**LEARNED, "layers": "0"}),
    "FL, two-layer units": ("sparsepo", 0.5, {**LEARNED, "width": 16}),
    "FL, sigmoid": ("sparsepo", 0.5, {**LEARNED, "mixer_activation": "sigmoid"}),
    "FL, softplus": ("sparsepo", 0.5, {**LEARNED, "mixer_activation": "softplus"}),
    "FL, floor 0.1": ("sparsepo", 0.5, {**LEARNED, "floor": 0.1}),
    "FL, binary": ("sparsepo", 0.5, {**LEARNED, "source": "binary"}),
    "FL, after the token": ("sparsepo", 0.5, {**LEARNED, "token": "after"}),
    "F, top 30 %": ("sparsepo", 0.5, {**FAST, "top": 0.3}),
    "F, normalised (FN)": ("sparsepo", 0.5, NORMALISED),
    "FN, independent": ("sparsepo", 0.5, {**NORMALISED, "masks": "independent"}),
    "FN, after the token": ("sparsepo", 0.5, {**NORMALISED, "token": "after"}),
    "FN, mask lr x 10 (default masks)": ("sparsepo", 0.5, ALONE),
    "FN, anchor": ("sparsepo", 0.5, {**NORMALISED, "anchor": 1.0}),
    "FN, anchor on the complement": (
        "sparsepo", 0.5, {**NORMALISED, "anchor": 1.0, "anchor_weight": "complement"}
    ),
    "FL, anchor": ("sparsepo", 0.5, {**LEARNED, "anchor": 1.0}),
    "random 30 %": ("sparsepo", 0.5, {**ALONE, "source": "random", "density": 0.3}),
    "uniform (= tdpo1)": ("sparsepo", 0.5, {**ALONE, "source": "uniform"}),
}  # fmt: skip
# The best attainable shift at every distance, as far as these rows know; others are given as shares of it.
BOUND = "oracle + anchor beta 0.1"
LOSS_FIELDS = {
    "accuracy": "accuracy",
    "accuracy_unmasked": "accuracy, masks removed",
    **{f"shift_at_{nats}": f"shift at {nats:g} nats" for nats in NATS},
    "shift": "shift at the end",
    "sampled_kl": "nats at the end",
    "sequence_kl": "KL(ref, policy) at the end",
    "log_ratio_auc": "AUC of abs. log-ratio",
    **{f"share_at_{nats}": f"share of the bound at {nats:g} nats" for nats in NATS[:2]},
}
MASK_FIELDS = {
    "auc": "AUC of the mask",
    "sparsity": "zeros",
    "dead": "dead",
    "accuracy": "accuracy",
    "accuracy_unmasked": "accuracy, masks removed",
    "shift_at_0.5": "shift at 0.5 nats",
    "shift_at_1.0": "shift at 1 nat",
    "shift": "shift at the end",
    "sampled_kl": "nats at the end",
    **{f"share_at_{nats}": f"share of the bound at {nats:g} nats" for nats in NATS[:2]},
}


COSTS = Path(__file__).parents[1] / "docs" / "methods-cost.csv"
REVIEWS = Path(__file__).parents[1] / "docs" / "methods-sentiment.csv"
# Method: what it reads besides pairs, and which models run at a step. Guides run once, before the training.
_DPO = "policy, reference"
METHODS = {
    **dict.fromkeys(("dpo", "cdpo", "ipo", "dpop", "d2po", "lddpo"), ("nothing", _DPO)),
    **dict.fromkeys(("dpo + anchor", "d2po + anchor", "lddpo + anchor"), ("nothing", f"{_DPO}, KL")),
    **dict.fromkeys(("tdpo1", "tdpo2"), ("nothing", f"{_DPO}, KL")),
    "mapo": ("nothing", f"{_DPO}, KL, activations"),
    **dict.fromkeys(("sparsepo", "sparsepo + anchor"), ("nothing", f"{_DPO}, KL, mask module")),
    **dict.fromkeys(("simpo", "confpo"), ("nothing", "policy")),
    "otpo": ("nothing", f"{_DPO}, transport"),
    "otpo + anchor": ("nothing", f"{_DPO}, transport, KL"),
    **dict.fromkeys(("tisdpo", "tgdpo", "criticaldpo"), ("weights of guides", _DPO)),
    **dict.fromkeys(
        ("tisdpo + anchor", "tgdpo + anchor", "criticaldpo + anchor"), ("weights of guides", f"{_DPO}, KL")
    ),
    "sepo": ("weights of guides", "policy"),
    "oracle": ("the planted tokens", _DPO),
    "oracle + anchor": ("the planted tokens", f"{_DPO}, KL"),
}


def prepare(name: str, seed: int) -> Experiment:
    """Build policy and masks of a row of RUNS."""
    loss, beta, given = RUNS[name]
    reads = registry.get(loss).options.build(given).needs().token_weights
    scores = planted_guides.scores(seed, loss, crossed="saw the pairs" not in name) if reads else None
    return experiment(loss, beta, given, seed, oracle=name.startswith("oracle"), scores=scores)


def run(name: str, seed: int) -> dict[str, float]:
    """Train one row with one seed and measure it."""
    test, curve = prepare(name, seed), list[Samples]()

    def look(step: int) -> None:
        if step in SAMPLED_AT:
            curve.append(sampled(test))

    fit(test, test.room.train, look)
    return measure(test) | along(curve)


class Samples(NamedTuple):
    """Mean of good minus bad words in samples, and KL(policy || reference) per sample in nats."""

    shift: float
    kl: float


def along(curve: list[Samples]) -> dict[str, float]:
    """Shift at given distances, interpolated between the sampled steps; missing beyond the last one."""
    row = {}
    for nats in NATS:
        for before, after in itertools.pairwise([Samples(0.0, 0.0), *curve]):
            if before.kl < nats <= after.kl:
                part = (nats - before.kl) / (after.kl - before.kl)
                row[f"shift_at_{nats}"] = before.shift + part * (after.shift - before.shift)
                break
    return row | {"shift": curve[-1].shift, "sampled_kl": curve[-1].kl}


@torch.no_grad()
def measure(test: Experiment) -> dict[str, float]:
    """Held-out metrics, and AUC of planted tokens of the reward mask and of the policy's log-ratio."""
    test.masks.eval()
    test.policy.eval()
    stats, masks, output, planted = evaluate(test, test.room.held_out)
    values = metrics.ratios(metrics.pair_metrics(stats, masks, output, test.beta))
    mask, on = masks.reward_mask.float(), stats.response_mask
    row = {
        "accuracy": values["accuracy"],
        "accuracy_unmasked": values.get("accuracy_unmasked", float("nan")),
        "auc": language.auc(mask[on].tolist(), planted[on].tolist()),
        "sparsity": values["reward_mask_sparsity"],
        "dead": float(not mask[on].any()),
        "sequence_kl": (values["chosen_sequence_kl"] + values["rejected_sequence_kl"]) / 2,
    }
    if stats.reference_logps is not None:
        ratio = (stats.policy_logps - stats.reference_logps).abs()
        row["log_ratio_auc"] = language.auc(ratio[on].tolist(), planted[on].tolist())
    return row


@torch.no_grad()
def sampled(test: Experiment) -> Samples:
    """Sample from the policy; the KL is exact over the vocabulary along every sample."""
    room, policy = test.room, test.policy.eval()
    tokenizer = room.tokenizer
    prompts = [room.held_out[i % HELD_OUT].prompt for i in range(SAMPLES)]
    ids = tokenizer(prompts, add_special_tokens=False, return_tensors="pt")["input_ids"]
    torch.manual_seed(test.seed)
    texts = policy.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=40,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    words = texts[:, ids.shape[1] :]
    alive = (words == tokenizer.eos_token_id).long().cumsum(-1) - (
        words == tokenizer.eos_token_id
    ).long() == 0
    good, bad = (
        torch.tensor(tokenizer.convert_tokens_to_ids(list(w))) for w in (language.GOOD, language.BAD)
    )
    count = (torch.isin(words, good).float() - torch.isin(words, bad).float()) * alive
    attention = torch.cat([torch.ones_like(ids, dtype=torch.bool), alive], -1).long()
    log_p, log_q = (
        torch.log_softmax(m(texts, attention_mask=attention).logits[:, ids.shape[1] - 1 : -1], -1)
        for m in (policy, room.reference)
    )
    room.recorder.take()
    kl = ((log_p.exp() * (log_p - log_q)).sum(-1) * alive).sum(-1)
    return Samples(float(count.sum(-1).mean()), float(kl.mean()))


@torch.no_grad()
def baselines(seed: int) -> dict[str, float]:
    """AUC of scores that need no training: the bound, the reference's entropy, MaPO's groups, chance."""
    room = lab(seed)
    ids, labels, planted = batch_of(room.tokenizer, room.held_out)
    attention = (ids != room.tokenizer.pad_token_id).long()
    seen = room.reference(ids, attention_mask=attention, output_hidden_states=True)
    on, recordings = labels[:, 1:] != IGNORE_INDEX, room.recorder.take()
    log_q = torch.log_softmax(seen.logits[:, :-1], -1)
    scores = {"entropy": -(log_q.exp() * log_q).sum(-1)}
    scores["chance"] = torch.rand(on.shape, generator=torch.Generator().manual_seed(seed))
    for groups in (*((group,) for group in GROUPS), GROUPS):
        kept = {name: value for name, value in recordings.items() if name.split(".")[0] in groups}
        scores["mapo " + ("all" if groups == GROUPS else groups[0])] = activation_mask(kept, on)
    found = {
        name: language.auc(value[on].tolist(), planted[:, 1:][on].tolist()) for name, value in scores.items()
    }
    states = ReferenceState(tuple(seen.hidden_states[1:]), on)
    for start in INITIALISATIONS:
        options = registry.get("sparsepo").options.build({"init": start})
        shape = reference_shape(room.reference.config)
        dead = [not options.build_masks(shape, n)(states).reward_mask[on].any() for n in range(STARTS)]
        found[f"share of {STARTS} {start} starts that are dead"] = statistics.fmean(dead)
    return {"attainable by a mask that reads the prefix": language.attainable_auc(room.held_out), **found}


def load(path: Path) -> list[dict[str, str]]:
    """Rows of the CSV, if it is there."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def save(path: Path, rows: list[dict[str, str]]) -> None:
    """Write the CSV atomically."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def cell(rows: list[dict[str, str]], field: str) -> str:
    """Mean and, over seeds, standard deviation of a field; how many seeds, where not all have it."""
    values = [float(row[field]) for row in rows if row.get(field) not in ("", "nan", None)]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    count = f" ({len(values)} of {len(rows)})" if len(values) < len(rows) else ""
    return f"{statistics.fmean(values):.2f}{spread}{count}"


def grid(rows: list[dict[str, str]], names: list[str], fields: dict[str, str]) -> list[str]:
    """Markdown lines of one table."""
    lines = ["| run | " + " | ".join(fields.values()) + " |", "| --- |" + " --- |" * len(fields)]
    for name in names:
        mine = [row for row in rows if row["run"] == name]
        if mine:
            lines.append(f"| {name} | " + " | ".join(cell(mine, field) for field in fields) + " |")
    return lines


def with_shares(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows with their shift as a share of the bound's with the same seed, where both have one."""
    bounds = {row["seed"]: row for row in rows if row["run"] == BOUND}
    shared = []
    for row in rows:
        bound = bounds.get(row["seed"], {})
        shares = {
            f"share_at_{nats}": str(float(row[key]) / float(bound[key]))
            for nats in NATS
            if row.get(key := f"shift_at_{nats}") and bound.get(key)
        }
        shared.append({**row, **shares})
    return shared


def table(rows: list[dict[str, str]]) -> str:
    """Markdown tables: losses, masks, scores without training."""
    rows = with_shares(rows)
    masked = list(RUNS)[list(RUNS).index("paper: common") :]
    lines = ["## Losses", "", *grid(rows, [name for name in RUNS if name not in masked], LOSS_FIELDS)]
    lines += ["", "## Mask variants, beta 0.5", "", *grid(rows, masked, MASK_FIELDS)]
    lines += ["", "## Scores that need no training of a mask", ""]
    lines += ["| score | AUC of planted tokens |", "| --- | --- |"]
    base = [row for row in rows if row["run"] == "baselines"]
    fields = [f for f in (base[0] if base else {}) if f.startswith("base ") and any(r.get(f) for r in base)]
    lines += [f"| {field.removeprefix('base ')} | {cell(base, field)} |" for field in fields]
    dpo = [row for row in rows if row["run"] == "dpo beta 0.5"]
    lines.append(f"| absolute log-ratio of a policy trained with dpo | {cell(dpo, 'log_ratio_auc')} |")
    return "\n".join(lines) + "\n"


def extra_models(reads: str, passes: str) -> str:
    """Models that a method needs beside the policy, at its steps or before."""
    at_steps = [name for name in ("reference", "mask module") if name in passes]
    before = ["guides, before"] if reads == "weights of guides" else []
    return ", ".join(at_steps + before) or "none"


def methods(
    rows: list[dict[str, str]],
    costs: list[dict[str, str]],
    reviews: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> str:
    """One Markdown row per method: of its settings the one that comes furthest for half a nat.

    Args:
      rows: of the CSV.
      costs: of methods_cost.py's; empty where it has not run.
      reviews: two cells per method of the comparison on film reviews.
    """
    rows, key = with_shares(rows), "shift_at_0.5"
    times = {row["method"]: f"{float(row['ratio']):.2f}" for row in costs}
    lines = ["| method | reads besides pairs | extra models | a step, dpo = 1 | best setting run | seeds |"]
    lines[0] += f" shift at 0.5 nats | share of the bound | {' | '.join(on_reviews.HEADINGS)} |"
    lines.append("|" + " --- |" * (8 + len(on_reviews.HEADINGS)))
    for method, (reads, passes) in METHODS.items():
        extra, cost = extra_models(reads, passes), times.get(method, "")
        there = " | ".join(reviews.get(method, ("", "")))
        by_name = {name: [row for row in rows if row["run"] == name] for name in settings_of(method)}
        reached = {name: mine for name, mine in by_name.items() if mine and all(row.get(key) for row in mine)}
        means = {name: statistics.fmean(float(row[key]) for row in mine) for name, mine in reached.items()}
        if not means:
            why = "none came so far on every seed" if any(by_name.values()) else "not run"
            lines.append(f"| {method} | {reads} | {extra} | {cost} | {why} | | | | {there} |")
            continue
        best = max(means, key=means.__getitem__)
        told = (str(len(reached[best])), cell(reached[best], key), cell(reached[best], "share_at_0.5"))
        lines.append(f"| {method} | {reads} | {extra} | {cost} | {best} | {' | '.join(told)} | {there} |")
    return "\n".join(lines) + "\n"


def settings_of(method: str) -> list[str]:
    """Rows of RUNS that are settings of a method: its name and a beta, or one of the defaults' names."""
    own = {"sparsepo": ["FN, mask lr x 10 (default masks)"], "sparsepo + anchor": ["FN, anchor"]}.get(
        method, []
    )
    return [*own, *(name for name in RUNS if name.rpartition(" beta ")[0] == method)]


def publish(path: Path, text: str, section: str = "planted") -> None:
    """Put the tables between the markers of a document, or make it."""
    begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    old = path.read_text(encoding="utf-8") if path.is_file() else f"{begin}\n{end}\n"
    write_text(path, between(old, begin, end, text.rstrip("\n")))


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="CSV of results; finished runs are kept")
    parser.add_argument("--table", type=Path, help="Markdown file whose tables are rewritten")
    parser.add_argument("--methods", type=Path, help="Markdown file whose table of methods is rewritten")
    parser.add_argument("--costs", type=Path, default=COSTS, help="CSV of methods_cost.py for that table")
    parser.add_argument("--reviews", type=Path, default=REVIEWS, help="CSV of study.on_methods for it")
    parser.add_argument("--seeds", type=int, default=5, help="0: no run, the tables alone")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="rows to run; default all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = load(arguments.out)
    wanted = [name for name in (*RUNS, "baselines") if not arguments.only or name in arguments.only]
    done = {(row["run"], row["seed"]) for row in rows}
    todo = [
        (name, seed)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for name in wanted
        if (name, str(seed)) not in done
    ]
    for name, seed in tqdm(todo, desc="planted"):
        started = time.monotonic()
        if name == "baselines":
            found = {f"base {key}": value for key, value in baselines(seed).items()}
        else:
            found = run(name, seed)
        seconds = f"{time.monotonic() - started:.1f}"
        values = {key: f"{value:.5f}" for key, value in found.items()}
        rows.append({"run": name, "seed": str(seed), "seconds": seconds, **values})
        save(arguments.out, rows)
    if arguments.table:
        publish(arguments.table, table(rows))
    if arguments.methods:
        lines = verdicts.lines(verdicts.load(arguments.reviews), SIZES["full"])
        text = methods(rows, load(arguments.costs), on_reviews.cells(lines))
        publish(arguments.methods, text, "methods")
        publish(arguments.methods, on_reviews.table(lines), "reviews")


if __name__ == "__main__":
    main()
