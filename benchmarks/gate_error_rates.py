"""How often the gate errs, by simulation: the harness's own statistics on made data with a known truth.

For right-or-wrong items, for clusters whose items go wrong together, and for graded scores: REGRESSED
although nothing changed, KEPT although the true drop is exactly the margin, KEPT when nothing changed against
the power that `eval-harness validate` computes, and REGRESSED at twice the margin. Fails when an error rate
exceeds alpha, or the exact size of McNemar's test, by more than three Monte-Carlo standard errors.

    python benchmarks/gate_error_rates.py --out docs/gate-error-rates.md      # about five minutes on one core
"""

import argparse
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from eval_harness.files.writing import write_text
from eval_harness.gate.decide import verdict_of
from eval_harness.stats.multiple import holm
from eval_harness.stats.paired import paired
from eval_harness.stats.power import keep_power

ALPHA = 0.05


class Example(NamedTuple):
    """What is drawn; `share` correlates the latent values of a cluster, `graded` scores are not 0 or 1."""

    items: int
    discordance: float
    margin: float
    size: int = 1
    share: float = 0.0
    graded: bool = False

    def __str__(self):
        text = f"{self.items} items"
        if self.size > 1:
            text += f" in clusters of {self.size}, correlation {self.share:g}"
        return f"{text}, discordance {self.discordance:g}, margin {self.margin:g}"


BINARY = [
    Example(100, 0.06, 0.06),
    Example(100, 0.15, 0.10),
    Example(200, 0.10, 0.06),
    Example(285, 0.10, 0.05),
    Example(500, 0.20, 0.05),
    Example(1319, 0.15, 0.03),
]
CLUSTERED = [
    Example(150, 0.10, 0.08, 3, 0.3),
    Example(300, 0.15, 0.06, 3, 0.8),
    Example(500, 0.10, 0.05, 5, 0.5),
    Example(750, 0.20, 0.05, 3, 0.5),
    Example(1200, 0.15, 0.05, 3, 1.0),
]
GRADED = [Example(60, 0.0225, 0.05, 1, 0, True), Example(150, 0.0225, 0.05, 3, 0.5, True)]
FEW = [Example(200, 0.10, 0.05, 10, 0.5), Example(60, 0.20, 0.15, 6, 0.5)]


def draw(case, drop, rng):
    """Candidate's and baseline's scores of one experiment, and the clusters."""
    clusters = np.repeat(np.arange(case.items // case.size), case.size)
    own, shared = rng.standard_normal(case.items), rng.standard_normal(case.items // case.size)
    latent = math.sqrt(case.share) * shared[clusters] + math.sqrt(1 - case.share) * own
    if case.graded:
        theirs = rng.uniform(0.53, 0.57, case.items)
        return theirs - drop + np.clip(latent, -3, 3) * math.sqrt(case.discordance), theirs, clusters
    level, discordance = stats.norm.cdf(latent), max(case.discordance, drop)
    lost, gained = (discordance + drop) / 2, (discordance - drop) / 2
    change = np.where(level < lost, -1, np.where(level > 1 - gained, 1, 0))
    # An item that did not change is right on both sides: which side it is on enters nothing.
    theirs = np.where(change == 1, 0, 1)
    return theirs + change, theirs, clusters


def experiment(case, drop, rng):
    """One comparison by the harness."""
    ours, theirs, clusters = draw(case, drop, rng)
    ours = np.clip(ours, 0, 1)
    return paired(ours.tolist(), theirs.tolist(), clusters.tolist(), ALPHA, seed=int(rng.integers(2**31)))


def rates(case, drop, reps, rng):
    """Share of REGRESSED and of KEPT, mean design effect and mean discordance."""
    found = [experiment(case, drop, rng) for _ in range(reps)]
    verdicts = [verdict_of(f, f.p, case.margin, ALPHA) for f in found]
    means = [float(np.mean([getattr(f, name) for f in found])) for name in ("design_effect", "variance")]
    return verdicts.count("REGRESSED") / reps, verdicts.count("KEPT") / reps, *means


def exact_size(case):
    """P(McNemar rejects | no change), by summing over the number of discordant items."""
    total = 0.0
    for count in range(case.items + 1):
        law = stats.binom.pmf(count, case.items, case.discordance)
        critical = int(stats.binom.ppf(1 - ALPHA, count, 0.5)) + 1
        total += law * float(stats.binom.sf(critical - 1, count, 0.5))
    return total


def row(case, reps, rng):
    """One line of the table, and whether both error rates are within alpha plus three standard errors."""
    none, margin, double = (rates(case, times * case.margin, reps, rng) for times in (0, 1, 2))
    limit = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / reps)
    formula = keep_power(case.items, none[3], case.margin, ALPHA, none[2], case.graded)
    error = 1.96 * math.sqrt(ALPHA * (1 - ALPHA) / reps)
    cells = [str(case), f"{none[0]:.3f}", f"{margin[1]:.3f}", f"±{error:.3f}"]
    cells += [f"{none[1]:.3f}", f"{formula:.3f}", f"{double[0]:.3f}", f"{none[2]:.2f}"]
    sound = max(none[0], margin[1]) <= limit
    if not case.graded and case.size == 1:
        exact = exact_size(case)
        cells[1] += f" (exact size of McNemar {exact:.3f})"
        sound = sound and none[0] <= exact + 3 * math.sqrt(exact * (1 - exact) / reps)
    return "| " + " | ".join(cells) + " |", sound


def family(reps, rng):
    """P(any of six gates REGRESSED | no change), with Holm and without."""
    any_holm = any_plain = 0
    for _ in range(reps):
        found = [(case, experiment(case, 0.0, rng)) for case in BINARY[:5] + CLUSTERED[:1]]
        adjusted = holm([f.p for _, f in found])
        any_holm += any(
            verdict_of(f, p, c.margin, ALPHA) == "REGRESSED" for (c, f), p in zip(found, adjusted)
        )
        any_plain += any(verdict_of(f, f.p, c.margin, ALPHA) == "REGRESSED" for c, f in found)
    return any_holm / reps, any_plain / reps


COLUMNS = (
    "data",
    "REGRESSED, no change",
    "KEPT, drop = margin",
    "95 % Monte-Carlo error at 0.05",
    "KEPT, no change",
    "formula",
    "REGRESSED, drop = 2 margins",
    "design effect",
)
HEAD = "| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|"


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    lines = [
        "# Error rates of the gate",
        "",
        f"Written by `python benchmarks/gate_error_rates.py --reps {args.reps} --seed {args.seed}`:",
        f"alpha {ALPHA}, {args.reps} experiments per cell (graded scores {args.reps // 4}).",
        "",
        "Correlation is that of the latent normal values of a cluster's items; 1 is the same question",
        "several times. McNemar's test is exact and discrete, so its size lies below alpha; REGRESSED is",
        "rarer still where a significant drop is inside the margin (then KEPT). Discordance of graded scores",
        "is the mean squared difference.",
    ]
    sound = True
    tables = (
        ("Right or wrong", BINARY, 1),
        ("Right or wrong, in clusters", CLUSTERED, 1),
        ("Graded", GRADED, 4),
    )
    for title, cases, fewer in tables:
        found = [row(case, args.reps // fewer, rng) for case in cases]
        sound = sound and all(good for _, good in found)
        lines += ["", f"## {title}", "", HEAD, *(text for text, _ in found)]
    found = [row(case, args.reps, rng) for case in FEW]
    lines += ["", "## Limits: fewer than 30 clusters", "", "The report then carries a note.", "", HEAD]
    lines += [text for text, _ in found]
    with_holm, without = family(args.reps // 2, rng)
    sound = sound and with_holm <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / (args.reps // 2))
    lines += ["", "## Six gates, no change", ""]
    lines += [
        f"Any REGRESSED: {with_holm:.3f} with Holm, {without:.3f} without ({args.reps // 2} experiments)."
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        write_text(args.out, text)
    print("error rates are as announced" if sound else "ERROR RATES TOO HIGH")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
