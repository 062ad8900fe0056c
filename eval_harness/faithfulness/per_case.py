"""Flat lists of numbers, one per summary, dealt back to their cases."""

from collections.abc import Sequence

from eval_harness.faithfulness.examples import Evidence, Example, ScoredExample


def by_case(
    cases: Sequence[Example],
    metric: str,
    values: Sequence[float],
    evidence: Sequence[tuple[Evidence, ...]],
) -> list[ScoredExample]:
    """One Graded per case.

    Args:
      cases: in order.
      metric: the name of the values.
      values: per summary, all cases one after the other.
      evidence: of the same summaries.
    """
    graded, start = [], 0
    for case in cases:
        end = start + len(case.summaries)
        graded.append(ScoredExample({metric: tuple(values[start:end])}, tuple(evidence[start:end])))
        start = end
    return graded
