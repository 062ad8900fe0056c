"""Control questions: does a judge rate a summary higher against its own document than against another?"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from eval_harness.faithfulness.examples import Example

_ALPHA = 0.05


class Control(NamedTuple):
    """A summary by its case and place among that case's summaries, and the pair to ask about: `case`."""

    number: int
    place: int
    case: Example


def control_pairs(cases: Sequence[Example], most: int, seed: int) -> list[Control]:
    """One summary of each of at most `most` documents, paired with the document of another.

    Documents are drawn once each, so that the pairs are independent, and passed on around the circle in
    which they were drawn: none keeps its own, and every document is rated against as often as for.

    Args:
      cases: documents with summaries; the same document may come several times.
      most: an upper bound.
      seed: of documents and summaries.

    Returns:
      The pairs; none where there are fewer than two different documents with a summary.
    """
    summaries: dict[str, list[tuple[int, int]]] = {}
    for number, case in enumerate(cases):
        for place, summary in enumerate(case.summaries):
            if summary.strip():
                summaries.setdefault(case.document.strip(), []).append((number, place))
    draw = random.Random(seed)
    chosen = draw.sample(list(summaries), min(most, len(summaries)))
    if len(chosen) < 2:
        return []
    pairs = []
    for document, other in zip(chosen, [*chosen[1:], chosen[0]], strict=True):
        number, place = draw.choice(summaries[document])
        pairs.append(Control(number, place, Example(other, (cases[number].summaries[place],))))
    return pairs


def why_no_information(own: Sequence[float | None], other: Sequence[float | None]) -> str:
    """The reason for which nothing follows from ratings; empty where they measurably depend on the document.

    Args:
      own: ratings against the summary's own document, None where there is none, [pairs].
      other: the same summaries' against another document, [pairs].
    """
    from eval_harness.stats.judge_information import chance_of_no_preference  # scipy, which lists do without

    if not own:
        return (
            "whether the judge's ratings depend on the document cannot be checked: fewer than two documents "
            "have a summary"
        )
    rated = [(mine, theirs) for mine, theirs in zip(own, other) if mine is not None and theirs is not None]
    higher = sum(mine > theirs for mine, theirs in rated)
    lower = sum(mine < theirs for mine, theirs in rated)
    chance = chance_of_no_preference(higher, lower)
    if chance <= _ALPHA:
        return ""
    return (
        f"the judge's ratings do not measurably depend on the document: of {len(own)} summaries {higher} "
        f"were rated higher against their own document than against another, {lower} lower "
        f"(sign test, n = {higher + lower}, p = {chance:.3f})"
    )
