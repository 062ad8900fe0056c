"""Pairs of texts to questions in both orders, and their answers to shares of a win."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eval_harness.judges.types import FAILED, JUDGED, UNPARSABLE, Answer, Question, Status

METRIC = "win_rate,both_orders"
SIGNIFICANT = 0.05  # level at which a judge must be shown to depend on the texts


class Comparison(NamedTuple):
    """Two texts to one prompt; `task` and `doc_id` are those of the item.

    `failed`: one of the texts did not come. It is never judged, whatever the other says.
    """

    task: str
    doc_id: int
    prompt: str
    candidate: str
    baseline: str
    failed: bool = False

    @property
    def asked(self) -> bool:
        """Whether a judge is asked: about two texts that differ."""
        return not self.failed and self.candidate != self.baseline


@dataclass(frozen=True)
class Judgement:
    """The share of the win that goes to the candidate, in [0, 1]; None without two judgements.

    `orders` are the values as given: with the candidate's text first, and second; None where not judged.
    """

    share: float | None
    orders: tuple[float | None, float | None]
    statuses: tuple[Status, Status]

    @property
    def of_candidate(self) -> tuple[float | None, float | None]:
        """The share that each order gave to the candidate."""
        first, second = self.orders
        return first, None if second is None else 1 - second

    @property
    def biased(self) -> bool:
        """Whether the judge preferred the same place in both orders."""
        first, second = self.orders
        if first is None or second is None:
            return False
        return (first > 0.5 and second > 0.5) or (first < 0.5 and second < 0.5)


TIE = Judgement(0.5, (0.5, 0.5), (JUDGED, JUDGED))
LACKING = Judgement(None, (None, None), (FAILED, FAILED))


def questions(comparisons: Sequence[Comparison]) -> list[Question]:
    """Two questions per comparison, the candidate's text first, then second; equal texts are not asked."""
    asked = []
    for pair in comparisons:
        if pair.asked:
            for first, second in ((pair.candidate, pair.baseline), (pair.baseline, pair.candidate)):
                asked.append(Question({"prompt": pair.prompt, "first": first, "second": second}))
    return asked


def judgements(comparisons: Sequence[Comparison], answers: Sequence[Answer]) -> list[Judgement]:
    """Answers to `questions(comparisons)` put together: both orders count alike, equal texts are a tie.

    A comparison with a failed or unreadable answer in either order has no share: one order alone would carry
    the judge's bias for a place, and a failure must never be a win.
    """
    rest, judged = iter(answers), []
    for pair in comparisons:
        if not pair.asked:
            judged.append(LACKING if pair.failed else TIE)
            continue
        one, two = next(rest), next(rest)
        share = None
        if one.value is not None and two.value is not None:
            share = (one.value + 1 - two.value) / 2
        judged.append(Judgement(share, (one.value, two.value), (one.status, two.status)))
    return judged


def settled(judged: Sequence[Judgement], limit: float) -> list[Judgement]:
    """Contradictions between the two orders as ties, or without a share where they are more than `limit`.

    Args:
      judged: of all comparisons.
      limit: share of the comparisons judged in both orders; above it a contradiction is no judgement.
    """
    both = [j for j in judged if j.share is not None and j is not TIE]
    if sum(j.biased for j in both) <= limit * len(both):
        return list(judged)
    return [dataclasses.replace(j, share=None) if j.biased else j for j in judged]


def why_no_information(judged: Sequence[Judgement], order_free: bool) -> str:
    """The reason for which nothing follows from a judge's answers; empty where they depend on the texts.

    Args:
      judged: of all comparisons; those of equal texts say nothing of the judge.
      order_free: the order cannot matter to it, so that turning it tests nothing: then only a judge that
        calls everything a tie carries none.
    """
    orders = [
        (first, second)
        for first, second in (j.orders for j in judged if j is not TIE)
        if first is not None and second is not None
    ]
    if not orders:
        return ""
    first, second = ([both[number] for both in orders] for number in (0, 1))
    if len({*first, *second}) == 1:
        return f"the judge gave the first text {first[0]:g} in all {2 * len(first)} questions"
    if order_free:
        return ""
    from eval_harness.stats.judge_information import chance_of_no_information  # numpy, which lists do without

    chance = chance_of_no_information(first, second)
    if chance <= SIGNIFICANT:
        return ""
    return (
        f"the judge's answers do not measurably depend on the texts: in {len(first)} comparisons they move "
        f"with the order no more than chance would (p = {chance:.3f})"
    )


class Tally(NamedTuple):
    """Counts of comparisons, but for `unparsable` and `failed`, which count single answers.

    `position_bias` is the share of comparisons judged in both orders in which the judge preferred the same
    place twice; `first_place` the mean share that went to the first text.
    """

    comparisons: int
    judged: int
    wins: int
    ties: int
    losses: int
    identical: int
    answers: int
    unparsable: int
    failed: int
    position_bias: float
    first_place: float


def tally(comparisons: Sequence[Comparison], judged: Sequence[Judgement]) -> Tally:
    """Count."""
    shares = [j.share for j in judged if j.share is not None]
    asked = [j for pair, j in zip(comparisons, judged, strict=True) if pair.asked or pair.failed]
    both = [j for j in asked if j.share is not None]
    statuses = Counter(status for j in asked for status in j.statuses)
    values = [value for j in asked for value in j.orders if value is not None]
    return Tally(
        len(judged),
        len(shares),
        sum(s > 0.5 for s in shares),
        sum(s == 0.5 for s in shares),
        sum(s < 0.5 for s in shares),
        len(judged) - len(asked),
        2 * sum(pair.asked for pair in comparisons),
        statuses[UNPARSABLE],
        statuses[FAILED],
        sum(j.biased for j in both) / len(both) if both else 0.0,
        sum(values) / len(values) if values else 0.5,
    )


def unjudged(judged: Sequence[Judgement]) -> list[str]:
    """Of how many comparisons the rates are, where not of all; a score's `n` is that of its items."""
    number = sum(one.share is not None for one in judged)
    if number == len(judged):
        return []
    return [f"rates are of the {number} of {len(judged)} comparisons with a judgement"]


def empty_texts(pairs: Sequence[Comparison], *, both: bool) -> list[str]:
    """What is said of empty texts, which a judge compares as if they were answers.

    Args:
      pairs: all comparisons.
      both: the candidate's texts too; otherwise the baseline's only.
    """
    came = [pair for pair in pairs if not pair.failed]
    texts = {"candidate": [pair.candidate for pair in came]} if both else {}
    texts["baseline"] = [pair.baseline for pair in came]
    empty = {who: sum(not text.strip() for text in some) for who, some in texts.items()}
    return [f"{number} of {len(came)} {who} texts are empty" for who, number in empty.items() if number]


def count_notes(lacking: int, count: Tally) -> list[str]:
    """Notes on what is missing; `lacking` counts comparisons without a text, each asked in two orders."""
    notes = []
    if lacking:
        notes.append(f"{lacking} comparisons lack a text (refused, filtered or never finished reasoning)")
    if failed := count.failed - 2 * lacking:
        notes.append(f"{failed} judgements failed; run the same command again to ask them again")
    if count.unparsable:
        notes.append(f"{count.unparsable} judgements cannot be read")
    return notes
