"""Error rates of the sequential test: a look after every batch, stopped wherever the verdict stands.

False alarms (REGRESSED, no change) and false KEPT (drop = margin) count if they happen at any look, whatever
the other test said before: the worst that a reader who stops when it suits can do.
"""

import zlib

import gate_data
import numpy as np

from eval_harness.stats.clustered import Clusters
from eval_harness.stats.paired import paired
from eval_harness.stats.power import POWER, keep_power
from eval_harness.stats.sequential import bets_against, log_capital, looks

ALPHA, BATCH = 0.05, 20
NEEDED = -np.log(ALPHA)
LARGEST = 30  # of the geometric clusters; stated to the test as the largest there can be


def blocks(items, size):
    return lambda rng: np.full(items // size, size)


def geometric(rng):
    return np.minimum(gate_data.geometric(4000, 4, rng), LARGEST)


def mixed(rng):
    return rng.permutation([20] * 80 + [1] * 1600)


# name, discordance, margin, correlation, sizes of a whole run, largest cluster
CELLS = (
    ("single items", 0.05, 0.05, 0.0, blocks(700, 1), 1),
    ("single items", 0.20, 0.05, 0.0, blocks(2000, 1), 1),
    ("clusters of 3", 0.05, 0.05, 0.5, blocks(1500, 3), 3),
    ("clusters of 3", 0.20, 0.05, 1.0, blocks(4800, 3), 3),
    ("geometric clusters of mean 4", 0.05, 0.05, 1.0, geometric, LARGEST),
    ("geometric clusters of mean 4", 0.20, 0.05, 0.3, geometric, LARGEST),
    ("clusters of 20 and of 1", 0.20, 0.05, 0.5, mixed, 20),
)


def experiment(cell, drop, rng):
    """Differences, and clusters in the order of the run."""
    _, discordance, margin, correlation, sizes, _ = cell
    ours, theirs, codes = gate_data.binary("", sizes, discordance, margin, correlation).draw(drop, rng)
    return ours, theirs, Clusters(codes, np.bincount(codes))


def batches(sizes):
    """Number of clusters at every look: batches of at least BATCH items, whole clusters."""
    reached = np.cumsum(sizes)
    marks = np.searchsorted(reached, np.arange(BATCH, reached[-1] + BATCH, BATCH)) + 1
    return np.unique(np.minimum(marks, len(sizes)))


def rates(cell, drop, reps, rng):
    """Any REGRESSED, any KEPT; then stopped: REGRESSED, KEPT, mean and median of the items used."""
    _, _, margin, _, _, largest = cell
    counts, used = np.zeros(4), []
    for number in range(reps):
        ours, theirs, groups = experiment(cell, drop, rng)
        sums, sizes, ends = groups.totals(ours - theirs), groups.sizes, batches(groups.sizes)
        keep = log_capital(bets_against(sums, sizes, largest, -margin), ends) >= NEEDED
        lost = log_capital(bets_against(-sums, sizes, largest, 0.0), ends) >= NEEDED
        stop = int(np.argmax(keep | lost)) if (keep | lost).any() else len(ends) - 1
        if number < 2:
            check(ours - theirs, groups, ends, cell, keep, lost)
        counts += (lost.any(), keep.any(), lost[stop] and not keep[stop], keep[stop])
        used.append(int(sizes[: ends[stop]].sum()))
    return [*(counts / reps).tolist(), float(np.mean(used)), float(np.median(used))]


def check(values, groups, ends, cell, keep, lost):
    """The shortcut above says what the harness's own looks say."""
    seen = looks(values, groups, ends.tolist(), cell[5], ALPHA)
    if [look.low > -cell[2] for look in seen] != np.logical_or.accumulate(keep).tolist():
        raise AssertionError(f"{cell[0]}: KEPT differs")
    if [look.p <= ALPHA for look in seen] != np.logical_or.accumulate(lost).tolist():
        raise AssertionError(f"{cell[0]}: REGRESSED differs")


def fixed_items(cell, power, rng):
    """Items at which the fixed gate keeps an unchanged model with this probability, by the power formula."""
    effects = []
    for _ in range(20):
        ours, theirs, groups = experiment(cell, 0.0, rng)
        found = paired(ours.tolist(), theirs.tolist(), groups.codes.tolist(), ALPHA)
        effects.append(found.design_effect)
    low, high = 1, 1_000_000
    while low < high:
        middle = (low + high) // 2
        enough = keep_power(middle, cell[1], cell[2], ALPHA, float(np.mean(effects))) >= power
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


COLUMNS = (
    "data",
    "REGRESSED at any look, no change",
    "KEPT at any look, drop = margin",
    "KEPT, no change",
    "mean items (median)",
    f"fixed gate, power {POWER:g}",
    "fixed gate, same power",
    "REGRESSED, drop = 2 margins",
    "mean items",
)


def row(cell, truths, fixed):
    """One line of the table."""
    none, margin, double = truths
    name = f"{cell[0]}, correlation {cell[3]:g}" if cell[5] > 1 else cell[0]
    cells = [f"{name}, discordance {cell[1]:g}, margin {cell[2]:g}", f"{none[0]:.3f}", f"{margin[1]:.3f}"]
    cells += [f"{none[3]:.3f}", f"{none[4]:.0f} ({none[5]:.0f})", f"{fixed[0]}", f"{fixed[1]}"]
    return "| " + " | ".join([*cells, f"{double[2]:.3f}", f"{double[4]:.0f}"]) + " |"


TEXT = f"""
## Looking after every batch

The betting test of `eval_harness/stats/sequential.py` looks after every {BATCH} items (whole clusters). An
error counts if it happens at any look, whatever the other test said before. Under no change and at twice the
margin the run stops at the first verdict, at the latest with its last item. Beside the mean number of items
stand those that the fixed gate needs for power {POWER:g}, and for the power that the sequential test
reached, by the power formula.
"""


def tables(state, reps, seed, stamp):
    """Lines of the table, and whether no error rate exceeds alpha."""
    lines, sound = [*TEXT.splitlines(), "", "| " + " | ".join(COLUMNS) + " |"], True
    lines.append("| --- " * len(COLUMNS) + "|")
    for cell in CELLS:
        key, truths = f"sequential, {cell[:4]}, {reps} pairs, seed {seed}", []
        for k in (0, 1, 2):
            name = f"{key}, {k} margins"
            truths.append(state.get(name, stamp, lambda rng, k=k, c=cell: rates(c, k * c[2], reps, rng)))
        if None in truths:
            continue
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        fixed = [fixed_items(cell, power, rng) for power in (POWER, min(truths[0][3], 0.999))]
        lines.append(row(cell, truths, fixed))
        print(lines[-1], flush=True)
        # Ville's bound is no approximation: only Monte-Carlo error is allowed for.
        sound = sound and max(truths[0][0], truths[1][1]) <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / reps)
    return lines, sound
