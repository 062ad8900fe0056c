"""A gate that looks after every batch and stops where the verdict stands; valid at every look, pure.

Every gate has its own order of clusters, by the hash of a seed and the cluster's name: no result has a part
in it, and where two gates share clusters they meet them in the same order. A look adds a batch of whole
clusters to each gate that is undecided. Low end, high end and p are those of `stats.sequential`, which hold
at all looks together; Holm's correction is over the p of all gates, of those that have stopped too.
"""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from eval_harness.errors import UserError
from eval_harness.gate import decide as fixed
from eval_harness.gate.compare import FinishedRun, PairedItem, observations, pair_runs
from eval_harness.gate.gates import Gate, GateFile
from eval_harness.gate.verdicts import REGRESSED, UNDECIDED, Decision, Mapped
from eval_harness.stats.clustered import Clusters
from eval_harness.stats.paired import BETTING, paired
from eval_harness.stats.sequential import looks


class Document(NamedTuple):
    """A document that can be measured, and its cluster."""

    task: str
    doc_id: int
    cluster: str


class Progress(NamedTuple):
    """How far a gate has come: its clusters in order, and how many were seen at each look."""

    gate: Gate
    clusters: list[list[Document]]
    seen: list[int]

    def documents(self) -> list[Document]:
        """What has been asked for so far."""
        chosen = self.clusters[: self.seen[-1]] if self.seen else []
        return [document for cluster in chosen for document in cluster]

    @property
    def items(self) -> int:
        """Documents of the whole gate."""
        return sum(map(len, self.clusters))

    @property
    def exhausted(self) -> bool:
        """Whether every cluster was seen."""
        return bool(self.seen) and self.seen[-1] == len(self.clusters)

    def advance(self, batch: int) -> None:
        """Ask for at least `batch` more documents, in whole clusters."""
        end, added = self.seen[-1] if self.seen else 0, 0
        while end < len(self.clusters) and added < batch:
            added += len(self.clusters[end])
            end += 1
        self.seen.append(end)


def plan(file: GateFile, documents: Iterable[Document], seed: int) -> list[Progress]:
    """The order of every gate, before anything is measured."""
    everything = list(documents)
    tasks = list(dict.fromkeys(document.task for document in everything))
    progress = []
    for gate in file.gates:
        covered, clusters = set(gate.select(tasks)), dict[str, list[Document]]()
        for document in everything:
            if document.task in covered:
                clusters.setdefault(document.cluster, []).append(document)
        order = sorted(clusters, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())
        progress.append(Progress(gate, [clusters[name] for name in order], []))
    return progress


def stands(decision: Decision, progress: list[Progress]) -> bool:
    """Whether no further item could change the overall verdict: a blocking gate regressed, or all decided."""
    open_gates = (
        verdict.blocking and verdict.verdict == UNDECIDED and not one.exhausted
        for verdict, one in zip(decision.gates, progress, strict=True)
    )
    return decision.verdict == REGRESSED or not any(open_gates)


def look(
    candidate: FinishedRun,
    baseline: FinishedRun,
    file: GateFile,
    progress: list[Progress],
    undecided: Mapped = "exit",
) -> Decision:
    """Decide by what has been measured so far.

    Args:
      candidate: items that at least hold the documents asked for.
      baseline: the same items.
      file: gates and alpha.
      progress: of every gate of the file, in its order.
      undecided: what UNDECIDED means: exit, pass or fail.

    Raises:
      UserError: see `decide`; also a metric with several values per item.
    """
    pairs = pair_runs(candidate, baseline)
    measured = []
    for one in progress:
        tasks = {task: pairs[task] for task in dict.fromkeys(d.task for d in one.documents())}
        covered = one.gate.model_copy(update={"tasks": tuple(tasks)})
        raw = fixed.measure(covered, tasks, candidate, baseline, file.alpha)
        measured.append(_by_betting(one, pairs, raw, file.alpha))
    # What a gate was planned for and how many items a fixed number would take are no questions here.
    gates = tuple(gate.model_copy(update={"items": None}) for gate in file.gates)
    made = fixed.conclude(
        candidate, baseline, file.model_copy(update={"gates": gates}), pairs, measured, undecided
    )
    return dataclasses.replace(made, facts=(*made.facts, *_facts(progress)))


def _by_betting(one: Progress, pairs: fixed.Items, raw: "fixed.Measured", alpha: float) -> "fixed.Measured":
    """The gate's comparison on the documents that it has asked for, by the betting test."""
    chosen = _pairs_of(one, pairs)
    upwards = raw.scores[0].higher_is_better
    scores = observations(chosen, raw.metric, upwards)
    if len(scores.candidate) != len(chosen):
        raise UserError(
            f"gate {one.gate.name}: several values an item",
            got=raw.metric,
            expected="a metric with one value an item, whose number is known before it is measured",
            remedy="name another metric, or run without --until-decided",
        )
    names = [name for name, cluster in enumerate(one.clusters[: one.seen[-1]]) for _ in cluster]
    codes = np.array(names, dtype=np.int64)
    groups = Clusters(codes, np.bincount(codes).astype(np.int64))
    values = np.subtract(scores.candidate, scores.baseline, dtype=np.float64)
    largest = max(map(len, one.clusters))
    last = looks(values, groups, one.seen, largest, alpha)[-1]
    compared = paired(scores.candidate, scores.baseline, names, alpha)
    compared = dataclasses.replace(compared, low=last.low, high=last.high, p=last.p, method=BETTING)
    return raw._replace(compared=fixed.as_measured(compared, upwards), pooled=chosen)


def _pairs_of(one: Progress, pairs: fixed.Items) -> list[PairedItem]:
    known = {(task, pair.candidate.doc_id): pair for task, of_task in pairs.items() for pair in of_task}
    return [known[document.task, document.doc_id] for document in one.documents()]


def _facts(progress: list[Progress]) -> list[tuple[str, str]]:
    return [
        (
            f"{one.gate.name}: looks",
            f"{len(one.seen)}, {len(one.documents())} of {one.items} items measured; the interval holds at "
            "all of them together",
        )
        for one in progress
    ]
