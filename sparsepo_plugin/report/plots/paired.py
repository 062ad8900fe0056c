"""The table beside a figure: means over seeds, and paired tests against the first configuration."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

from sparsepo_plugin.report.plots.groups import Group

HEADLINE = (
    "Last evaluation on held-out pairs (without one: last training steps). Mean and standard error over the "
    "seeds. Difference: from configuration 1, at the last step that both have; p: two-sided t test of the "
    "differences paired by train.seed, over the seeds that both have; p holm: adjusted over the metric."
)


class Row(NamedTuple):
    """One metric of one configuration; None where there is nothing to say.

    Attributes:
      number: of the configuration, as in the figure.
      configuration: its label.
      runs: how many trainings it has.
      metric: name in metrics.jsonl.
      split: "eval" or "train".
      step: at which mean and standard error are.
      mean: over runs.
      standard_error: of that mean; None for one run.
      difference: mean difference from configuration 1.
      compared_step: the step of the difference.
      seeds: pairs of runs of the test.
      p: of the paired t test.
      p_holm: the same, adjusted.
    """

    number: int
    configuration: str
    runs: int
    metric: str
    split: str
    step: int
    mean: float
    standard_error: float | None
    difference: float | None = None
    compared_step: int | None = None
    seeds: int | None = None
    p: float | None = None
    p_holm: float | None = None


def rows(metrics: Sequence[str], groups: Sequence[Group], window: int = 1) -> list[Row]:
    """Rows by metric, then group; where nothing is held out, ``window`` training steps are averaged."""
    return [row for metric in metrics for row in _adjusted(_rows(metric, groups, window))]


def _rows(metric: str, groups: Sequence[Group], window: int) -> list[Row]:
    found = []
    for number, members in enumerate(groups, 1):
        split = "eval" if members.curve("eval", metric).steps else "train"
        curve = members.curve(split, metric, window if split == "train" else 1)
        if curve.steps:
            runs = len(members.runs)
            error = curve.error[-1] if runs > 1 else None
            head = (number, members.label, runs, metric, split, curve.steps[-1], curve.mean[-1], error)
            found.append(Row(*head, *(_compared(groups[0], members, split, metric) if number > 1 else ())))
    return found


def _compared(
    first: Group, other: Group, split: str, metric: str
) -> tuple[float, int, int, float | None] | tuple[()]:
    """Mean difference, its step, pairs of seeds, p; empty where no pair of seeds has a step in common."""
    ours, theirs = other.by_seed(split, metric), first.by_seed(split, metric)
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    steps = set.intersection(*(set(values) for pair in pairs for values in pair)) if pairs else set()
    if not steps:
        return ()
    step = max(steps)
    differences = [mine[step] - its[step] for mine, its in pairs]
    return math.fsum(differences) / len(differences), step, len(differences), paired_p(differences)


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of Student's t test that the mean is 0; None for one value, or for equal ones."""
    count = len(differences)
    mean = math.fsum(differences) / count
    squares = math.fsum((value - mean) ** 2 for value in differences)
    if count < 2 or squares <= (1e-12 * mean) ** 2:
        return None
    return two_sided(abs(mean) / math.sqrt(squares / (count - 1) / count), count - 1)


def two_sided(t: float, degrees: int) -> float:
    """P(|T| > t) of Student's t for whole degrees of freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for number in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cosine**2 * (number - 1) / number
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1 - inside)


def _adjusted(found: list[Row]) -> list[Row]:
    """The rows with Holm's p over those that have one."""
    largest, tested = 0.0, sorted((row.p, place) for place, row in enumerate(found) if row.p is not None)
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        found[place] = found[place]._replace(p_holm=largest)
    return found


def as_csv(found: Sequence[Row]) -> str:
    """Full precision; empty where there is nothing."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Row._fields, *found])
    return text.getvalue()


def as_cells(found: Sequence[Row]) -> list[list[str]]:
    """Head and rounded rows, without columns in which nothing stands."""
    columns = [name for name in Row._fields if any(getattr(row, name) is not None for row in found)]
    body = [[_cell(name, getattr(row, name)) for name in columns] for row in found]
    return [[name.replace("_", " ") for name in columns], *body]


def _cell(name: str, value: object) -> str:
    if isinstance(value, float) and name.startswith("p"):
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def as_markdown(title: str, found: Sequence[Row]) -> str:
    """Heading, what the columns are, table."""
    return "\n".join([f"# {title}", "", HEADLINE, "", *markdown_table(*as_cells(found))]) + "\n"


def markdown_table(head: Sequence[str], *rows: Sequence[str]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
