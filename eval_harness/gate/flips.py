"""Documents whose answer changed: what a report shows of a verdict."""

from eval_harness.gate.compare import PairedItem, item_value
from eval_harness.gate.hollow import unjudged
from eval_harness.gate.verdicts import Change, Flip

FLIPS = 25  # of either kind, per gate


def flips_of(gate: str, pairs: list[PairedItem], metric: str, higher_is_better: bool) -> list[Flip]:
    """Documents that changed most, lost ones first; ties in document order."""
    lost: list[Flip] = []
    gained: list[Flip] = []
    for pair in pairs:
        if unjudged(pair, metric):
            continue
        ours, theirs = (item_value(item, metric) for item in pair)
        if ours == theirs:
            continue
        change: Change = "lost" if (ours < theirs) == higher_is_better else "gained"
        item = pair.candidate
        before, after = (
            tuple(side.evidence.get(metric.partition(",")[0], ())) for side in (pair.baseline, item)
        )
        flip = Flip(
            gate,
            item.task,
            item.doc_id,
            change,
            item.prompt,
            item.target,
            tuple(item.choices),
            pair.baseline.outputs,
            item.outputs,
            theirs,
            ours,
            before,
            after,
            orders=tuple(item.orders),
        )
        (lost if change == "lost" else gained).append(flip)
    return sorted(lost, key=_change)[:FLIPS] + sorted(gained, key=_change)[:FLIPS]


def _change(flip: Flip) -> float:
    return -abs(flip.candidate_value - flip.baseline_value)
