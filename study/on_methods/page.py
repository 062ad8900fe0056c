"""The comparison as Markdown: cells for the table of methods, and a table of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from study.on_methods.plan import METHODS, SAME_AS_DPO
from study.on_methods.verdicts import Line, Range, shown

HEADINGS = ("P(positive) on film reviews", "difference and verdict there")
UNFINISHED = "not finished"


def cells(lines: Sequence[Line]) -> dict[str, tuple[str, str]]:
    """Per method its reward at the budget, and the difference with the verdict."""
    found = {
        line.method: (
            shown(line.values),
            _difference(line) + line.verdict if METHODS[line.method].against else "",
        )
        for line in lines
    }
    same = ("", "is DPO there: equal lengths")
    return found | dict.fromkeys(SAME_AS_DPO, same) if lines else {}


def _difference(line: Line) -> str:
    return "" if math.isnan(line.difference) else f"{line.difference:+.3f}, "


def _interval(ends: Range) -> str:
    return "" if math.isnan(ends.low) else f"{ends.low:+.3f} to {ends.high:+.3f}"


def table(lines: Sequence[Line]) -> str:
    """One Markdown row per method; what is said while runs are missing."""
    if not lines:
        return f"{UNFINISHED}: no verdict before the last run\n"
    found = [
        "| method | beta | at | P(positive) | the check's | compared with | difference | 95 % over seeds "
        "| over prompts, corrected | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        method = METHODS[line.method]
        at = f"{method.budget:g} nat" + ("" if method.budget == 1 else "s")
        told = [line.method, line.beta or "none came so far", at, shown(line.values), shown(line.check)]
        told += [
            method.against,
            _difference(line).rstrip(", "),
            _interval(line.seeds),
            _interval(line.prompts),
        ]
        found.append(f"| {' | '.join([*told, f'**{line.verdict}**' if line.verdict else ''])} |")
    return "\n".join(found) + "\n"
