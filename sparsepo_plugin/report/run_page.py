"""``sparsepo report``: what runs were, did and led to, on one page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_plugin import files
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.report import evaluation
from sparsepo_plugin.report.plots import groups, histograms, paired, style, training
from sparsepo_plugin.report.view import blocks, page, payload
from sparsepo_plugin.run_folder import configuration, tokens

# Runs whose tokens and settings stand side by side; of more there are tables and curves.
_SIDE_BY_SIDE = 2
_NO_RECORD = "No token record: train with --eval.dataset and --LOSS.record N."
_METRICS = (
    *("loss", "accuracy", "accuracy_unmasked", "margin", "margin_unmasked"),
    *("chosen_sequence_kl", "rejected_sequence_kl", "reward_mask_sparsity", "kl_mask_sparsity"),
)
_SHOWN_FIRST = (
    *("loss", "preference_loss", "model.model_name_or_path", "model.beta", "data.dataset", "eval.dataset"),
    *("adam.lr", "train.max_epochs", "train.batch_size", "train.seed"),
)


class _Run(NamedTuple):
    """A run as the page needs it."""

    label: str
    left: groups.Run
    settings: dict[str, Any]


def report(names: list[str], output: str, evaluations: Sequence[str] = ()) -> None:
    """Write the page and say where it is.

    Args:
      names: output folders of trainings.
      output: the HTML file; a page written earlier is replaced.
      evaluations: report.json or result.json of eval-harness, or folders that have one, besides what lies in
        the runs' folders.

    Raises:
      UserError: something cannot be read, or the output is not ours to write.
    """
    target = Path(output)
    files.check(target, page.MARK)
    style.library()
    left = groups.read_runs(names)
    labels = groups.names_of([run.folder for run in left])
    runs = [_Run(label, one, groups.identity(one.configuration)) for label, one in zip(labels, left)]
    alone = [groups.Group(run.label, [run.left]) for run in runs]
    compared = alone if len(runs) <= _SIDE_BY_SIDE else groups.group(left)
    records, missing = _records(runs)
    parts = [
        blocks.part("summary", "Summary", [*_summary(runs), *missing]),
        blocks.part("configuration", "Configuration", _configuration(runs)),
        blocks.part("curves", "Curves", _curves(compared)),
        blocks.part("masks", "Masks", _masks(compared)),
        blocks.part("evaluation", "Evaluation", _evaluations(runs, evaluations)),
    ]
    facts = [f"{len(runs)} runs" if len(runs) > 1 else runs[0].label, ", ".join(names[:3])]
    written = page.build(facts, [one for one in parts if one["blocks"]], records)
    files.write(target, written.encode(), page.MARK)
    print(f"{target}: {', '.join(labels)}; open it in a browser")


def _records(runs: Sequence[_Run]) -> tuple[list[payload.Recorded], list[blocks.Block]]:
    """Token records of one or two runs, and what to say where there are none or not all."""
    if len(runs) > _SIDE_BY_SIDE:
        return [], [blocks.paragraph("Tokens: sparsepo view RUN, or sparsepo report with one or two runs.")]
    found, said = [], []
    for run in runs:
        path = run.left.folder / tokens.FILE
        if not path.is_file() or not path.stat().st_size:
            said.append(blocks.paragraph(f"{run.label}: {_NO_RECORD}"))
            continue
        whole = payload.Recorded(run.label, tokens.read_steps(path))
        cut = payload.first_pairs(payload.shown(whole, len(runs)), len(runs))
        found.append(cut)
        pairs, of = len(cut.records[-1].pairs), len(whole.records[-1].pairs)
        if pairs < of:
            said.append(
                blocks.paragraph(f"{run.label}: tokens of {pairs} of {of} pairs; sparsepo view shows all.")
            )
    return found, said


def _summary(runs: Sequence[_Run]) -> Iterator[blocks.Block]:
    """The first and the last evaluation of every metric, or training step where nothing is held out."""
    columns = {run.label: _ends(run.left) for run in runs}
    names = [name for name in ("steps", *_METRICS) if any(ends.get(name) for ends in columns.values())]
    if len(runs) <= _SIDE_BY_SIDE:
        rows = [(name, *(ends.get(name) for ends in columns.values())) for name in names]
        yield blocks.table(("held-out pairs, first \u2192 last evaluation", *columns), rows)
    else:
        # Many runs: one line each, where it ended.
        rows = [(label, *(_last(ends.get(name)) for name in names)) for label, ends in columns.items()]
        yield blocks.table(("last evaluation", *names), rows)
    for run in runs:
        if not run.left.metrics["eval"]:
            yield blocks.paragraph(f"{run.label}: nothing is held out; numbers are of training batches.")


def _ends(run: groups.Run) -> dict[str, str]:
    rows = run.metrics["eval"] or run.metrics["train"]
    ends = {"steps": str(max(row["step"] for part in run.metrics.values() for row in part))}
    for name in _METRICS:
        values = [value for row in rows if (value := groups.number_in(row, name)) is not None]
        if values:
            ends[name] = " \u2192 ".join(f"{value:.4g}" for value in dict.fromkeys([values[0], values[-1]]))
    return ends


def _last(ends: str | None) -> str | None:
    return None if ends is None else ends.rpartition(" ")[2]


def _configuration(runs: Sequence[_Run]) -> Iterator[blocks.Block]:
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    different = [key for key in keys if len({repr(run.settings.get(key)) for run in runs}) > 1]
    settings = [run.settings for run in runs]
    of_one = [key for key in different if len(runs) > 1 and groups.only_of(key, settings)]
    different = sorted((key for key in different if key not in of_one), key=lambda key: key != "loss")
    if not keys:
        yield blocks.paragraph("No effective configuration lies in the folder.")
    elif len(runs) > _SIDE_BY_SIDE:
        yield blocks.table(
            ("run", *different), ([run.label, *(_setting(run, key) for key in different)] for run in runs)
        )
    else:
        own = tuple(f"{run.settings.get('loss')}." for run in runs)
        first = (
            different
            if len(runs) > 1
            else [key for key in keys if key in _SHOWN_FIRST or key.startswith(own)]
        )
        marked = range(len(different)) if len(runs) > 1 else ()
        yield _settings("differs" if len(runs) > 1 else "setting", runs, first, marked)
        if of_one:
            yield blocks.fold(f"{len(of_one)} options of one loss", [_settings("option", runs, of_one)])
        rest = [key for key in keys if key not in (*first, *of_one)]
        agree = "settings that agree" if len(runs) > 1 else "further settings"
        yield blocks.fold(f"{len(rest)} {agree}", [_settings("setting", runs, rest)])
    for run in runs if len(runs) <= _SIDE_BY_SIDE else ():
        if started := configuration.read_run(run.left.folder):
            rows = ((key, json.dumps(value)) for key, value in started.items())
            yield blocks.fold(f"{run.label}: start and versions", [blocks.table(("", ""), rows)])


def _settings(
    head: str, runs: Sequence[_Run], keys: Sequence[str], marked: Sequence[int] = ()
) -> blocks.Block:
    rows = ([key, *(_setting(run, key) for run in runs)] for key in keys)
    return blocks.table((head, *(run.label for run in runs)), rows, marked)


def _setting(run: _Run, key: str) -> str:
    value = run.settings.get(key)
    return "\u2013" if value is None else str(value)


def _curves(compared: list[groups.Group]) -> Iterator[blocks.Block]:
    drawn = [blocks.picture(training.legend_alone(compared), "legend", "Names of the lines")]
    tables = [blocks.paragraph(paired.HEADLINE)]
    for name, panels in training.FIGURES.items():
        for number, (label, svg) in enumerate(training.drawn_alone(name, panels, compared), 1):
            drawn.append(blocks.picture(svg, f"{name}-{number}", f"{label} over training; numbers below"))
        found = paired.rows([panel.metric for panel in panels], compared, training.window(compared))
        if found:
            head, *rows = paired.as_cells(found)
            tables.append(blocks.table(head, rows))
    yield blocks.pictures(drawn)
    for metric, value in training.constant(compared).items():
        yield blocks.paragraph(f"{metric} is {value:g} throughout, and not drawn.")
    yield blocks.fold("Numbers and tests", tables)


def _masks(compared: list[groups.Group]) -> Iterator[blocks.Block]:
    drawn = [blocks.picture(svg, title, title) for title, svg in histograms.drawn_alone(compared)]
    if drawn:
        yield blocks.pictures(drawn)


def _evaluations(runs: Sequence[_Run], given: Sequence[str]) -> Iterator[blocks.Block]:
    asked = {path.resolve(): path for path in map(evaluation.locate, given)}
    for path in asked.values():
        yield from evaluation.read(path)
    beside = {path.resolve(): path for run in runs for path in evaluation.within(run.left.folder)}
    for place, path in beside.items():
        if place not in asked:
            try:
                yield from evaluation.read(path)
            except UserError as error:
                # Nobody named it: it may be another program's.
                yield blocks.paragraph(f"Left out: {error}")
