"""What was measured and yet decides nothing: no judgement, no information, nothing to lose; pure."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from eval_harness.gate.compare import FinishedRun, PairedItem
from eval_harness.gate.verdicts import KEPT, UNDECIDED, Verdict
from eval_harness.types import ItemRecord, Score, SuiteResult


def unjudged(pair: PairedItem, metric: str) -> int:
    """How many entries of this metric a judge was asked for and did not give, on either side."""
    return sum(None in both for both in zip(*(_entries(item, metric) for item in pair)))


def entries(pair: PairedItem, metric: str) -> int:
    """How many entries of this metric can be compared, judged or not."""
    return min(len(_entries(item, metric)) for item in pair)


def _entries(item: ItemRecord, metric: str) -> list[Any]:
    """Entries of a metric, one per summary or instruction; none where an item has no such metric."""
    raw = item.metrics.get(metric, [])
    return raw if isinstance(raw, list) else [raw]


def judged_enough(made: Verdict, pooled: list[PairedItem], result: SuiteResult) -> Verdict:
    """The verdict, or UNDECIDED where more comparisons than stated have no judgement.

    Who is judged may depend on who would win: beyond a small share the rest proves nothing.
    """
    limit = result.max_unjudged
    missing = sum(unjudged(pair, made.metric) for pair in pooled)
    if limit is None or not missing:
        return made
    total = sum(entries(pair, made.metric) for pair in pooled)
    note = f"{missing} of {total} comparisons have no judgement"
    if missing <= limit * total:
        return dataclasses.replace(made, notes=(*made.notes, note))
    return undecidable(made, [f"{note}, more than the share of {limit:g} that is accepted"])


def why_hollow(
    made: Verdict, scores: Sequence[Score], constant: bool, runs: tuple[FinishedRun, ...]
) -> list[str]:
    """Reasons for which nothing follows from a verdict; empty where something does.

    Args:
      made: the verdict by the numbers alone.
      scores: the baseline's, of the gate's tasks.
      constant: whether every entry of both runs is the same number.
      runs: candidate and baseline.
    """
    reasons = [f"{run.name}: {run.result.undecidable}" for run in runs if run.result.undecidable]
    # The baseline's texts show whether a judge can rate; a candidate's may all deserve the worst.
    reasons += dict.fromkeys(f"baseline: {score.undecidable}" for score in scores if score.undecidable)
    value = made.paired.baseline
    if constant and any(score.judged for score in scores):
        reasons.append(f"the judge gave {value:g} to everything: its answers say nothing of the texts")
    left = value if scores[0].higher_is_better else 1.0 - value
    if made.verdict == KEPT and made.margin > 0 and left <= made.margin:
        reasons.append(
            f"the baseline ({value:.3f}) lies no further from the worst score than the margin: whatever the "
            "candidate does would be kept"
        )
    return reasons


def undecidable(made: Verdict, reasons: Sequence[str]) -> Verdict:
    """The verdict, or UNDECIDED with the reasons where there are any."""
    if not reasons:
        return made
    return dataclasses.replace(made, verdict=UNDECIDED, needed=None, notes=(*made.notes, *reasons))
