"""From judgements to scores, and to the lines of a report; pure but for numpy."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from eval_harness.judges.types import Judge
from eval_harness.stats.clustered import clustered_mean, clusters_of
from eval_harness.stats.length_control import Controlled, length_controlled
from eval_harness.types import Score
from eval_harness.win_rate.comparisons import METRIC, Comparison, Judgement, Tally, tally

CONTROLLED = "length_controlled_win_rate"
NOT_OFFICIAL = "this project's definition, not AlpacaEval's"
_SEED = 0


class Rate(NamedTuple):
    """A win rate with standard error and 95 % interval, both clustered by prompt; nan with one cluster."""

    rate: float
    stderr: float
    low: float
    high: float
    n: int


def win_rate(shares: Sequence[float], clusters: Sequence[str]) -> Rate:
    """Mean share of the win.

    Args:
      shares: in [0, 1], [comparisons]; ties are one half.
      clusters: equal for comparisons that share a prompt.

    Raises:
      ValueError: no comparisons.
    """
    if not shares:
        raise ValueError("no comparison was judged")
    estimate = clustered_mean(np.asarray(shares, dtype=np.float64), clusters_of(clusters))
    reach = float(stats.t(estimate.df).ppf(0.975)) * estimate.stderr if estimate.df else float("nan")
    low, high = max(0.0, estimate.mean - reach), min(1.0, estimate.mean + reach)
    return Rate(estimate.mean, estimate.stderr, low, high, len(shares))


def controlled(comparisons: Sequence[Comparison], judged: Sequence[Judgement]) -> Controlled:
    """Length-controlled win rate of the comparisons that have a judgement."""
    kept = [(c, j.share) for c, j in zip(comparisons, judged, strict=True) if j.share is not None]
    return length_controlled(
        [share for _, share in kept],
        [(len(c.candidate), len(c.baseline)) for c, _ in kept],
        [c.prompt for c, _ in kept],
        _SEED,
    )


def scores(comparisons: Sequence[Comparison], judged: Sequence[Judgement], version: str) -> list[Score]:
    """Win rate and length-controlled win rate per task, then of all tasks together.

    A task without any judgement has no score. `n` counts all comparisons, judged or not.
    """
    tasks = list(dict.fromkeys(c.task for c in comparisons))
    parts = [(task, False, [i for i, c in enumerate(comparisons) if c.task == task]) for task in tasks]
    if len(tasks) > 1:
        parts.append((tasks[0].rpartition("_t")[0] or tasks[0], True, list(range(len(comparisons)))))
    made = []
    for task, is_group, chosen in parts:
        pairs, outcomes = [comparisons[i] for i in chosen], [judged[i] for i in chosen]
        kept = [(c.prompt, j.share) for c, j in zip(pairs, outcomes, strict=True) if j.share is not None]
        if not kept:
            continue
        rate = win_rate([share for _, share in kept], [prompt for prompt, _ in kept])
        error = None if np.isnan(rate.stderr) else rate.stderr
        low, high = (None, None) if error is None else (rate.low, rate.high)
        common: dict[str, Any] = {"n": len(pairs), "is_group": is_group, "version": version}
        made.append(Score(task, METRIC, rate.rate, error, main=True, low=low, high=high, **common))
        lc = controlled(pairs, outcomes)
        common |= {"notes": (NOT_OFFICIAL,), "low": lc.low, "high": lc.high}
        made.append(Score(task, CONTROLLED, lc.rate, lc.stderr, **common))
    return made


def facts(
    comparisons: Sequence[Comparison], judged: Sequence[Judgement], made: Sequence[Score], judge: Judge
) -> list[tuple[str, str]]:
    """What a report says besides the gates: name and text."""
    count = tally(comparisons, judged)
    lines = [("judge", judge.label)]
    for score in made:
        what = "win rate" if score.metric == METRIC else f"length-controlled win rate ({NOT_OFFICIAL})"
        lines.append((f"{what}, {score.task}", _rate(score)))
    worst = sum(j.share or 0.0 for j in judged) / len(judged)
    lines += [
        ("comparisons", _counts(count)),
        ("position bias", "none by construction" if judge.order_free else _bias(count)),
        ("answers that cannot be read", _share(count.unparsable, count.answers)),
        ("answers that failed", _share(count.failed, count.answers)),
        ("comparisons without a judgement", _share(count.comparisons - count.judged, count.comparisons)),
        ("win rate if all of those were lost", f"{worst:.4f}"),
        ("mean length in characters", _lengths(comparisons)),
    ]
    return lines


def _rate(score: Score) -> str:
    if score.stderr is None or score.low is None or score.high is None:
        return f"{score.value:.4f}"
    return f"{score.value:.4f}, 95 % interval [{score.low:.4f}, {score.high:.4f}], error {score.stderr:.4f}"


def _counts(count: Tally) -> str:
    same = f", of the ties {count.identical} with equal texts" if count.identical else ""
    return f"{count.comparisons}: {count.wins} won, {count.ties} tied, {count.losses} lost{same}"


def _bias(count: Tally) -> str:
    return (
        f"{count.position_bias:.4f} of the comparisons went to the same place in both orders; "
        f"the first place got {count.first_place:.4f} of all wins"
    )


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.2%})" if whole else "none asked"


def _lengths(comparisons: Sequence[Comparison]) -> str:
    ours = sum(len(c.candidate) for c in comparisons) / len(comparisons)
    theirs = sum(len(c.baseline) for c in comparisons) / len(comparisons)
    return f"candidate {ours:.1f}, baseline {theirs:.1f}"


def halves(pairs: Sequence[Comparison], version: str) -> list[Score]:
    """The baseline against itself: one half, by definition."""
    return [
        Score(task, METRIC, 0.5, None, sum(p.task == task for p in pairs), main=True, version=version)
        for task in dict.fromkeys(pair.task for pair in pairs)
    ]
