"""Scoring by one scorer, piece by piece on disk, a judge's control questions with it."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval_harness.faithfulness.controls import Control, control_pairs, why_no_information
from eval_harness.faithfulness.examples import Example, ScoredExample, Scorer
from eval_harness.models.answer_store import AnswerStore, entry_key
from eval_harness.types import parse

if TYPE_CHECKING:
    from eval_harness.faithfulness.results import Scored

_AT_ONCE = 64  # documents scored before their scores are on disk
_VERSION = "1"  # of what a stored score depends on


def score_all(
    scorer: Scorer, mark: str, cases: dict[str, list[Example]], store: AnswerStore, seed: int
) -> "Scored":
    """Score every summary, and where a judge is to be tested some against the document of another.

    Args:
      scorer: already checked.
      mark: its digest.
      cases: task -> one case per document.
      store: keeps what scorers with a model give.
      seed: of the control questions.
    """
    from eval_harness.faithfulness.results import Scored  # numpy, which lists do without

    graded = {task: _score(scorer, mark, of_task, store) for task, of_task in cases.items()}
    if not scorer.control_questions():
        return Scored(scorer, mark, graded)
    flat = [(case, example) for task, of in cases.items() for case, example in zip(of, graded[task])]
    controls = _controls(scorer, [case for case, _ in flat], seed)
    others = _score(scorer, mark, [control.case for control in controls], store)
    metric = scorer.metrics[0].name
    own = [flat[control.number][1].values[metric][control.place] for control in controls]
    other = [example.values[metric][0] for example in others]
    failed = sum(example.failed for example in others)
    return Scored(scorer, mark, graded, why_no_information(own, other), failed)


def control_cases(scorer: Scorer, cases: Sequence[Example], seed: int) -> list[Example]:
    """What is asked besides the cases: for the cost."""
    return [control.case for control in _controls(scorer, cases, seed)]


def _controls(scorer: Scorer, cases: Sequence[Example], seed: int) -> list[Control]:
    return control_pairs(cases, scorer.control_questions() or 0, seed)


def _score(scorer: Scorer, mark: str, cases: list[Example], store: AnswerStore) -> list[ScoredExample]:
    """Score; of scorers with a model every finished piece is stored, and read again."""
    if not scorer.models():
        return scorer.score(cases)
    keys = [entry_key(mark, "score", _VERSION, "case", [c.document, c.summaries, c.reference]) for c in cases]
    scored = {key: parse(ScoredExample, value) for key, value in store.read(keys).items()}
    todo = {key: case for key, case in zip(keys, cases, strict=True) if key not in scored}
    if todo and (cost := scorer.cost(list(todo.values()))):
        print(f"scoring with {scorer.name}: {cost}", file=sys.stderr, flush=True)
    waiting = list(todo.items())
    for start in range(0, len(waiting), _AT_ONCE):
        part = dict(waiting[start : start + _AT_ONCE])
        new = dict(zip(part, scorer.score(list(part.values())), strict=True))
        store.write({key: dataclasses.asdict(example) for key, example in new.items() if not example.failed})
        scored |= new
    return [scored[key] for key in keys]
