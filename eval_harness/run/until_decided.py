"""Measure two models only as far as a verdict needs: batch by batch, a look after each."""

import dataclasses
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from eval_harness.errors import UserError
from eval_harness.files.places import check_folder, held
from eval_harness.gate import sequential
from eval_harness.gate.compare import FinishedRun
from eval_harness.gate.gates import GateFile
from eval_harness.gate.reports.files import discard_reports, write_reports
from eval_harness.gate.sequential import Document, Progress
from eval_harness.gate.verdicts import UNDECIDED, Decision, Mapped
from eval_harness.models import engines
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.identity import sha
from eval_harness.run.folder import write_run
from eval_harness.run.job import Divisible, Plan
from eval_harness.run.runner import Request, check_free, plans_of, result_of, workplace
from eval_harness.types import ItemRecord, SuiteResult

BATCH = 50
REPORT = "report"
STOPPED = (
    "measured until its gates were decided, where a test for a fixed number of items does not hold; the same "
    "`run --until-decided` says its verdict again"
)
Measured = tuple[SuiteResult, list[ItemRecord]]


def run_until_decided(
    request: Request,
    file: GateFile,
    batch: int = BATCH,
    undecided: Mapped = "exit",
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[Decision, Path]:
    """Measure candidate and baseline until the verdict stands, or every item is measured.

    Both runs and the reports are written; an earlier undertaking's reports go before anything is measured.

    Args:
      request: both models, one suite.
      file: gates that decide.
      batch: items that a look adds to each gate that is undecided.
      undecided: what UNDECIDED means: exit, pass or fail.
      tell: gets a line after every look.

    Returns:
      The decision, and the page that reports it.

    Raises:
      UserError: bad input, before any generation; also a suite that cannot be measured in parts.
    """
    out = _checked(request, batch)
    with workplace(request.cache) as work:
        plans = _checked_plans(request, out, work, file, batch)
        (_, first), (_, second) = plans
        documents = [Document(*entry) for entry in first.documents()]
        if documents != [Document(*entry) for entry in second.documents()]:
            raise UserError("the models are not asked the same documents", expected="one prompt set for both")
        progress = sequential.plan(file, documents, first.job.settings.seeds["random"])
        with held(out), engines.kept(), first.job.store() as store:
            _check_free(plans, request, file, batch)  # a run that held the folder may have finished
            discard_reports(out / REPORT)
            decision, runs = _look_until(plans, progress, file, batch, undecided, store, tell)
            keys = [_key(plan, file, batch) for _, plan in plans]
            # The baseline first: a candidate's result is read beside one.
            for (folder, plan), (result, items), key in reversed(list(zip(plans, runs, keys, strict=True))):
                write_run(folder, dataclasses.replace(result, key=key, undecidable=STOPPED), items)
                plan.leave(folder)
            decision = dataclasses.replace(
                decision,
                candidate=dataclasses.replace(decision.candidate, key=keys[0]),
                baseline=dataclasses.replace(decision.baseline, key=keys[1]),
            )
            return decision, write_reports(out / REPORT, decision)


def _checked_plans(
    request: Request, out: Path, work: Path, file: GateFile, batch: int
) -> list[tuple[Path, Divisible]]:
    """Folder and plan, candidate first."""
    check_folder(out, "--out")
    if request.cache is not None:
        check_folder(request.cache, "--cache")
    plans = [(folder, _divisible(plan)) for folder, plan in reversed(plans_of(request, out, work))]
    _check_free(plans, request, file, batch)
    return plans


def _check_free(plans: list[tuple[Path, Divisible]], request: Request, file: GateFile, batch: int) -> None:
    for folder, plan in plans:
        check_free(folder, _key(plan, file, batch), request.overwrite)


def _checked(request: Request, batch: int) -> Path:
    if request.baseline is None or request.model is None:
        raise UserError("--until-decided", got="one model", expected="--model and --baseline")
    if len(request.presets) != 1:
        raise UserError("--until-decided", got=f"{len(request.presets)} suites", expected="one suite")
    if request.out is None:
        raise UserError("no output folder", expected="--out DIR")
    if batch < 1:
        raise UserError("--look-every", got=batch, expected="a positive integer")
    if engines.world_size() > 1:
        raise UserError(
            "--until-decided",
            got=f"{engines.world_size()} processes",
            expected="one; a look needs all answers",
        )
    return request.out


def _divisible(plan: Plan) -> Divisible:
    if not isinstance(plan, Divisible):
        raise UserError(
            "--until-decided",
            got=f"suite {plan.job.preset.suite}, which is measured as a whole",
            expected="suite reasoning",
        )
    return plan


def _key(plan: Divisible, file: GateFile, batch: int) -> str:
    """Of the whole undertaking: the plan, and what may stop it."""
    return sha(json.dumps([plan.key, file.model_dump(), batch], sort_keys=True))


def _look_until(
    plans: list[tuple[Path, Divisible]],
    progress: list[Progress],
    file: GateFile,
    batch: int,
    undecided: Mapped,
    store: AnswerStore,
    tell: Callable[[str], None],
) -> tuple[Decision, list[Measured]]:
    """Measure, look, and go on where the verdict does not stand."""
    decision: Decision | None = None
    while True:
        verdicts = (
            [verdict.verdict for verdict in decision.gates] if decision else [UNDECIDED] * len(progress)
        )
        for one, verdict in zip(progress, verdicts, strict=True):
            if verdict == UNDECIDED and not one.exhausted:
                one.advance(batch)
        chosen = _chosen(progress)
        runs = [_measure(plan.part(chosen), store) for _, plan in plans]
        candidate, baseline = FinishedRun("candidate", *runs[0]), FinishedRun("baseline", *runs[1])
        decision = sequential.look(candidate, baseline, file, progress, undecided)
        tell(_line(decision, progress))
        if sequential.stands(decision, progress):
            return decision, runs


def _chosen(progress: list[Progress]) -> dict[str, list[int]]:
    """Documents of every task that some gate has asked for, rising."""
    wanted: dict[str, set[int]] = {}
    for one in progress:
        for document in one.documents():
            wanted.setdefault(document.task, set()).add(document.doc_id)
    return {task: sorted(numbers) for task, numbers in wanted.items()}


def _measure(plan: Plan, store: AnswerStore) -> Measured:
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    measured = plan.measure(store)
    if measured is None:
        raise UserError("--until-decided", got="a process that holds no answers", expected="one process")
    return result_of(plan, measured, started, time.monotonic() - clock), measured.items


def _line(decision: Decision, progress: list[Progress]) -> str:
    parts = (
        f"{verdict.name} {verdict.verdict} {len(one.documents())}/{one.items} "
        f"{verdict.paired.difference:+.3f} [{verdict.paired.low:+.3f}, {verdict.paired.high:+.3f}]"
        for verdict, one in zip(decision.gates, progress, strict=True)
    )
    return f"look {max(len(one.seen) for one in progress)}: " + "; ".join(parts)
