"""What a training says when it has ended: what it reached, where all of it is, its time, what next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_plugin import checkpoint
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.metrics import Z_95, wilson_interval
from sparsepo_plugin.run_folder import metrics, tokens

_SHARES = ("accuracy", "accuracy_unmasked")
_MEANS = ("loss", "margin", "chosen_sequence_kl", "rejected_sequence_kl")
_WORDS = {
    "accuracy_unmasked": "accuracy without masks",
    "chosen_sequence_kl": "KL of chosen",
    "rejected_sequence_kl": "KL of rejected",
}


class Names(NamedTuple):
    """How a trainer's users write what the lines speak of.

    Attributes:
      held_out: data to evaluate on.
      record: what keeps tokens; {loss} stands for the loss.
    """

    held_out: str
    record: str


OPENRLHF = Names("--eval.dataset", "--{loss}.record 200 and --eval.dataset")
TRL = Names("eval_dataset and eval_strategy", 'loss_options={{"record": 200}} and eval_dataset')
AXOLOTL = Names("test_datasets or val_set_size", "{loss}: {{record: 200}} and test_datasets")


def lines(
    folder: Path,
    model: str,
    loss: str | None,
    seconds: float,
    *,
    names: Names = OPENRLHF,
    unsaved: str = "",
) -> list[str]:
    """Five lines for a person. A file that cannot be read is said: no finished training fails for it.

    Args:
      folder: output folder of the training.
      model: what it started from.
      loss: name of the registered loss; None: the trainer's own.
      seconds: that it took.
      names: the trainer's own.
      unsaved: what writes policy and masks, where the training itself has not.
    """
    name, read, reading = shlex.quote(str(folder)), None, ""
    try:
        read = metrics.read(folder) if (folder / metrics.FILE).is_file() else {"train": [], "eval": []}
    except UserError as error:
        reading = f"no numbers: {error}"
    beside = {metrics.FILE: "metrics", tokens.FILE: "tokens"}
    if not unsaved:
        beside = {checkpoint.WEIGHTS: "masks", **beside}
    there = [f"{what}: {folder / file}" for file, what in beside.items() if (folder / file).is_file()]
    steps = read["train"][-1]["step"] if read and read["train"] else 0
    page = f"page: sparsepo report {name} -o {name}.html"
    if not (folder / tokens.FILE).is_file():
        page += f" (without tokens: {names.record.format(loss=loss)} keep some)"
    see = f"{page}; plots: sparsepo plot {name} -o {name}-plots"
    said = reading if read is None else reached(read, names)
    return [
        said if loss else "no --loss: evaluations are above and in the trackers, none is kept",
        "; ".join([f"policy: {folder}" + (f", {unsaved}" if unsaved else ""), *there]),
        see if loss else "page and plots: none without --loss, whose numbers they show",
        f"time: {_duration(seconds)}" + (f" to step {steps}" if steps else ""),
        f"next: eval-harness run --model {name} --baseline {shlex.quote(model)} "
        f"--suites reasoning:quick --out {name}-eval",
    ]


def reached(rows: Mapping[str, list[dict[str, Any]]], names: Names = OPENRLHF) -> str:
    """The first and the last evaluation in one line, with intervals of 95 %.

    They are Wilson's for shares of pairs, and of mean and standard error over pairs for the rest.

    Args:
      rows: as metrics.read gives them.
      names: the trainer's own.
    """
    evaluations = rows["eval"]
    if not evaluations:
        return f"not evaluated: no held-out pairs ({names.held_out}), or evaluations switched off"
    first, last = evaluations[0], evaluations[-1]
    pairs = f" of {last['pairs']} pairs" if "pairs" in last else ""
    head = f"evaluation{pairs}, step {last['step']}"
    if first is not last:
        head = f"evaluation{pairs}, step {first['step']} -> {last['step']}"
    told = []
    for name in (*_SHARES, *_MEANS):
        if last.get(name) is None or (name == "accuracy_unmasked" and last[name] == last.get("accuracy")):
            continue
        before = "" if first is last or first.get(name) is None else f"{_with_interval(first, name)} -> "
        told.append(f"{_WORDS.get(name, name)} {before}{_with_interval(last, name)}")
    return f"{head} (95 % intervals): {'; '.join(told)}"


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    value, ends = row[name], interval(row, name)
    return f"{value:.3g}" if ends is None else f"{value:.3g} [{ends[0]:.3g}, {ends[1]:.3g}]"


def interval(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The interval of 95 % of a metric; None where it is unknown, or there is nothing to estimate.

    The latter is so where the margins of all pairs are the same, as before the first step, at which policy
    and reference are equal.
    """
    pairs = row.get("pairs")
    if not pairs or not row.get("margin_stderr"):
        return None
    if name in _SHARES:
        return wilson_interval(row[name], pairs)
    error = row.get(f"{name}_stderr")
    return None if error is None else (row[name] - Z_95 * error, row[name] + Z_95 * error)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
