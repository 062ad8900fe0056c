"""Which losses and masks find planted preference tokens, and what they do to the policy.

    python benchmarks/planted.py --out docs/planted.csv --table docs/planted.md

Runs every row of RUNS with every seed on the demo's language (sparsepo_plugin.demo.language): a tiny Llama is
given a supervised start, then trained with the real losses and masks in a plain loop on one thread. Finished
runs in the CSV are not repeated. The table is made from the CSV alone.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import itertools
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sparsepo_plugin import metrics, registry
from sparsepo_plugin.cli.losses import between
from sparsepo_plugin.configured_loss import ConfiguredLoss, reference_shape
from sparsepo_plugin.demo import language, tiny
from sparsepo_plugin.demo.supervised import supervised_start
from sparsepo_plugin.files import write_text
from sparsepo_plugin.forward.activations import GROUPS, Recorder, find_sites
from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX, token_stats
from sparsepo_plugin.masks.activation import activation_mask
from sparsepo_plugin.masks.learned import INITIALISATIONS
from sparsepo_plugin.types import LossOutput, Masks, ReferenceState, TokenStats

TRAIN, HELD_OUT, STEPS, BATCH, SAMPLES, RATE = 600, 200, 180, 16, 192, 3e-4
# Samples are drawn at these steps, so that losses can be compared at equal distance from the reference.
SAMPLED_AT = (20, 45, 90, 180)
NATS = (0.5, 1.0, 2.0)
STARTS = 200
UNIT = {"init": "unit", "mask_lr_scale": 1.0, "normalise": "none"}
FAST = {**UNIT, "mask_lr_scale": 30.0}
L1 = {"reward_l1": 3e-3, "kl_l1": 3e-3}
LEARNED = {**FAST, **L1}
NORMALISED = {**FAST, "normalise": "mean"}
# name: (loss, beta, options). Masks are compared at one beta; losses at two.
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
    "FN, mask lr x 10 (the default)": ("sparsepo", 0.5, {}),
    "FN, anchor": ("sparsepo", 0.5, {**NORMALISED, "anchor": 1.0}),
    "FN, anchor on the complement": (
        "sparsepo", 0.5, {**NORMALISED, "anchor": 1.0, "anchor_weight": "complement"}
    ),
    "FL, anchor": ("sparsepo", 0.5, {**LEARNED, "anchor": 1.0}),
    "random 30 %": ("sparsepo", 0.5, {"source": "random", "density": 0.3}),
    "uniform (= tdpo1)": ("sparsepo", 0.5, {"source": "uniform"}),
}  # fmt: skip
LOSS_FIELDS = {
    "accuracy": "accuracy",
    "accuracy_unmasked": "accuracy, masks removed",
    **{f"shift_at_{nats}": f"shift at {nats:g} nats" for nats in NATS},
    "shift": "shift at the end",
    "sampled_kl": "nats at the end",
    "sequence_kl": "KL(ref, policy) at the end",
    "log_ratio_auc": "AUC of abs. log-ratio",
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
}


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
    """A row of RUNS under way."""

    room: Lab
    objective: ConfiguredLoss
    beta: float
    masks: nn.Module
    policy: PreTrainedModel
    seed: int


def evaluate(test: Experiment, pairs: list[language.Pair]) -> Batch:
    """Run both models on a batch of pairs."""
    room = test.room
    ids, labels, planted = batch_of(room.tokenizer, pairs)
    attention = (ids != room.tokenizer.pad_token_id).long()
    with torch.no_grad():
        seen = room.reference(ids, attention_mask=attention, output_hidden_states=True)
    logits = test.policy(ids, attention_mask=attention).logits
    stats = token_stats(logits, seen.logits, labels)
    state = ReferenceState(tuple(seen.hidden_states[1:]), stats.response_mask, ids, room.recorder.take())
    masks = test.masks(state)
    return Batch(stats, masks, test.objective.evaluate(stats, masks, test.beta), planted[:, 1:])


def prepare(name: str, seed: int) -> Experiment:
    """Build policy and masks of a row of RUNS."""
    loss_name, beta, given = RUNS[name]
    room, loss = lab(seed), registry.get(loss_name)
    objective = ConfiguredLoss(loss, loss.options.build(given), reference_shape(room.reference.config))
    policy = tiny.build_model(room.tokenizer, seed=seed)
    policy.load_state_dict(room.reference.state_dict())
    policy.requires_grad_(True)
    return Experiment(room, objective, beta, objective.build_masks(seed), policy, seed)


def run(name: str, seed: int) -> dict[str, float]:
    """Train one row with one seed and measure it."""
    test = prepare(name, seed)
    groups: list[dict[str, Any]] = [
        {"params": list(test.policy.parameters()), "lr": RATE, "weight_decay": 0.0}
    ]
    if any(True for _ in test.masks.parameters()):
        options = test.objective.options
        rate, decay = options.mask_learning_rate(RATE), options.mask_decay()
        groups.append({"params": list(test.masks.parameters()), "lr": rate, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(TRAIN, generator=generator) for _ in range(STEPS * BATCH // TRAIN + 1)])
    curve = []
    for step in range(STEPS):
        pairs = [test.room.train[i] for i in order[step * BATCH : (step + 1) * BATCH].tolist()]
        test.masks.train()
        test.policy.train()
        loss = evaluate(test, pairs).output.losses.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warmup.step()
        if step + 1 in SAMPLED_AT:
            curve.append(sampled(test))
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


def table(rows: list[dict[str, str]]) -> str:
    """Markdown tables: losses, masks, scores without training."""
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


def publish(path: Path, text: str) -> None:
    """Put the tables between the markers of a document, or make it."""
    begin, end = "<!-- planted:begin -->", "<!-- planted:end -->"
    old = path.read_text(encoding="utf-8") if path.is_file() else f"{begin}\n{end}\n"
    write_text(path, between(old, begin, end, text.rstrip("\n")))


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="CSV of results; finished runs are kept")
    parser.add_argument("--table", type=Path, help="Markdown file whose tables are rewritten")
    parser.add_argument("--seeds", type=int, default=5)
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


if __name__ == "__main__":
    main()
