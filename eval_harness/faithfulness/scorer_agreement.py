"""Meta-evaluation: how far a scorer agrees with people, so that one is chosen on evidence."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Example, Metric, Scorer, checked_cases
from eval_harness.faithfulness.human_labels import LabelledSummary, read_labelled
from eval_harness.files.rows import data_name
from eval_harness.stats import label_agreement
from eval_harness.stats.label_agreement import Agreement, Interval


class Row(NamedTuple):
    """One metric on one set of judged summaries."""

    data: str
    metric: str
    options: str
    agreement: Agreement


def evaluate(
    scorers: Sequence[Scorer],
    files: Sequence[Path],
    by_source: bool,
    seed: int,
    draws: int,
    announce: Callable[[str], None],
) -> list[Row]:
    """Score every file with every scorer.

    Args:
      scorers: already checked.
      files: of judged summaries.
      by_source: also split every file by its field `source`.
      seed: of the bootstrap.
      draws: its number of draws.
      announce: is told what scoring will take, before any model is loaded.

    Raises:
      UserError: bad data, a scorer that needs more than single summaries.
    """
    sets = {path: read_labelled(path) for path in files}
    for scorer in scorers:
        for path, rows in sets.items():
            if cost := scorer.cost(checked_cases(scorer, _cases(rows))):
                announce(f"{scorer.name} on {path.name}: {cost}")
    table = []
    for path, rows in sets.items():
        for scorer in scorers:
            table += _file(scorer, data_name(path), rows, by_source, seed, draws)
    return table


def _cases(rows: Sequence[LabelledSummary]) -> list[Example]:
    return [Example(row.document, (row.summary,), row.reference, row.name) for row in rows]


def _file(
    scorer: Scorer, name: str, rows: list[LabelledSummary], by_source: bool, seed: int, draws: int
) -> list[Row]:
    graded = scorer.score(_cases(rows))
    fields = type(scorer).model_fields
    changed = {key: value for key, value in scorer.options().items() if value != fields[key].default}
    options = " ".join(f"{key}={_short(value)}" for key, value in changed.items())
    parts = {name: list(range(len(rows)))}
    sources = sorted({row.source for row in rows})
    if by_source and len(sources) > 1:
        parts |= {f"{name}: {s}": [i for i, row in enumerate(rows) if row.source == s] for s in sources}
    table = []
    for part, picked in parts.items():
        for metric in scorer.metrics:
            given = [(graded[i].values[metric.name][0], rows[i]) for i in picked]
            rated = [(value, row) for value, row in given if value is not None]
            agreement = _agreement(metric, [v for v, _ in rated], [r for _, r in rated], seed, draws)
            table.append(Row(part, metric.name, options, agreement))
    return table


def _short(value: object) -> str:
    """A value without the folders of a path: tables are read elsewhere."""
    return str(value).rstrip("/").rsplit("/", maxsplit=1)[-1]


def _agreement(
    metric: Metric, values: list[float], rows: list[LabelledSummary], seed: int, draws: int
) -> Agreement:
    sign = 1.0 if metric.higher_is_better else -1.0
    try:
        measured = label_agreement.agreement(
            [sign * value for value in values],
            [row.label for row in rows],
            [row.score for row in rows],
            [row.document for row in rows],
            None if metric.threshold is None else sign * metric.threshold,
            seed,
            draws,
        )
        # Back in the metric's own unit; adding 0 makes -0 a 0.
        return measured._replace(at=sign * measured.at + 0.0, threshold=metric.threshold)
    except ValueError as error:
        raise UserError(
            f"agreement of {metric.name}", got=error, expected="faithful and unfaithful summaries"
        ) from error


HEAD = (
    *("data", "metric", "options", "rows", "documents", "faithful", "balanced accuracy", "at", "best", "at"),
    *("ROC AUC", "Spearman"),
)


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table as texts."""
    measured = row.agreement
    return (
        row.data,
        row.metric,
        row.options,
        str(measured.n),
        str(measured.clusters),
        f"{measured.faithful:.3f}",
        _interval(measured.fixed),
        "" if measured.threshold is None else f"{measured.threshold:.3g}",
        _interval(measured.best),
        f"{measured.at:.3g}",
        _interval(measured.auc),
        _interval(measured.spearman),
    )


def csv_table(rows: Sequence[Row]) -> str:
    """The table as CSV, every end of an interval in a column of its own, full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    measures = ("fixed", "best", "auc", "spearman")
    ends = [f"{name}{end}" for name in measures for end in ("", "_low", "_high")]
    writer.writerow(
        ["data", "metric", "options", "rows", "documents", "faithful", "threshold", "best_at", *ends]
    )
    for row in rows:
        measured = row.agreement
        numbers: list[object] = []
        for name in measures:
            interval = getattr(measured, name)
            numbers += ["", "", ""] if interval is None else [f"{x:.6f}" for x in interval]
        threshold = "" if measured.threshold is None else measured.threshold
        facts = (row.data, row.metric, row.options, measured.n, measured.clusters, f"{measured.faithful:.6f}")
        writer.writerow([*facts, threshold, f"{measured.at:.6f}", *numbers])
    return out.getvalue()
