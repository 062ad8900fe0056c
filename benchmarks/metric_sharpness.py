"""How many items every metric of two runs needs to show the change between them.

    python benchmarks/metric_sharpness.py RUN BASELINE

Reads two run folders of the reasoning suite on multiple-choice tasks. For accuracy, the gold answer's
log-likelihood (nats, and nats per byte) and the two scores that gates take (`gold_per_byte`, `gold_share`) it
prints the mean difference, its standard deviation, p of no difference (two-sided, clustered t), and the items
at which a change as large is seen with probability 0.8 at a one-sided level of 0.05.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from scipy import stats

from eval_harness.run.folder import read_items
from eval_harness.stats.clustered import clustered_mean, clusters_of
from eval_harness.stats.likelihood import GOLD, gold_scores
from eval_harness.stats.power import POWER

ALPHA = 0.05


def metrics_of(item):
    """Every metric of an item, those of runs made before gold scores were kept too."""
    gold = int(item.target)
    log_likelihood, size = item.outputs[gold][0], len(item.choices[gold].encode())
    scores = {name: value for name, value in item.metrics.items() if name not in GOLD}
    scores |= {"log-likelihood": log_likelihood, "log-likelihood per byte": log_likelihood / size}
    return scores | gold_scores(item.outputs, item.choices, gold)


def items_to_detect(differences, clusters, alpha):
    """Items at which a change as large as the measured one is seen with probability 0.8; free of units.

    Equation: n ((z_{1-alpha} + z_power) SE / mean)^2, so accuracy and log-likelihood of the same two runs
    can be compared: the metric that needs fewer items is the sharper one.

    Args:
      differences: candidate minus baseline in the metric's own unit, [items].
      clusters: equal for items that may depend on each other, at least two.
      alpha: one-sided level.

    Raises:
      ValueError: no difference on average, or a single cluster.
    """
    estimate = clustered_mean(differences, clusters_of(clusters))
    if estimate.mean == 0 or math.isnan(estimate.stderr):
        raise ValueError(
            f"got a mean difference of {estimate.mean:g}, expected one that is not 0, and clusters"
        )
    reach = float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(POWER))
    return max(1, math.ceil(len(differences) * (reach * estimate.stderr / estimate.mean) ** 2))


def rows(run, baseline):
    ours, theirs = ({(i.task, i.doc_id): i for i in read_items(folder)} for folder in (run, baseline))
    for task in dict.fromkeys(task for task, _ in theirs):
        keys = [key for key in theirs if key[0] == task]
        first, second = ([metrics_of(side[key]) for key in keys] for side in (ours, theirs))
        labels = [theirs[key].cluster for key in keys]
        for name in second[0]:
            values = np.array([a[name] - b[name] for a, b in zip(first, second, strict=True)])
            estimate, needed, p = clustered_mean(values, clusters_of(labels)), "none", 1.0
            if estimate.mean and estimate.stderr:
                needed = items_to_detect(values, labels, ALPHA)
                p = 2 * stats.t.sf(abs(estimate.mean) / estimate.stderr, estimate.df)
            numbers = (f"{estimate.mean:+.5f}", f"{values.std():.5f}", f"{p:.2g}", str(needed))
            yield f"| {' | '.join((task, name, str(len(keys)), *numbers))} |"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("baseline", type=Path)
    arguments = parser.parse_args()
    print("| task | metric | items | mean difference | its deviation | p | items that show it |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows(arguments.run, arguments.baseline)))


if __name__ == "__main__":
    main()
