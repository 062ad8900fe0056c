"""Questions to answers: what is on disk is read, the rest is asked, each answer on disk as it arrives."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence

from eval_harness.judges.types import FAILED, Answer, Judge, Question
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.identity import sha

VERSION = 1  # of what a stored answer depends on


def answer_keys(judge: Judge, questions: Sequence[Question]) -> list[str]:
    """A key per question: the judge with its settings and template, and every text in its place."""
    settings = judge.settings()
    return [sha(json.dumps(["judge", VERSION, settings, q.fields], sort_keys=True)) for q in questions]


def open_questions(
    judge: Judge, questions: Sequence[Question], store: AnswerStore | None
) -> dict[str, Question]:
    """Questions whose answers are not on disk, each once."""
    keys = answer_keys(judge, questions)
    held = store.read(keys) if store else {}
    return {key: question for key, question in zip(keys, questions, strict=True) if key not in held}


def ask(judge: Judge, questions: Sequence[Question], store: AnswerStore) -> tuple[list[Answer], Counter[str]]:
    """Answers in the order of the questions, and counts.

    Equal questions are asked once. A failed one is not stored: the next run asks it again.

    Returns:
      The answers, and how many distinct ones were `reused`, `computed` and `failed` among the computed.
    """
    from tqdm import tqdm

    keys = answer_keys(judge, questions)
    answers = {key: Answer(*value) for key, value in store.read(set(keys)).items()}
    counts = Counter(reused=len(answers))
    todo = {key: q for key, q in zip(keys, questions, strict=True) if key not in answers}
    asked = list(todo)
    with tqdm(total=len(todo), desc=f"judge {judge.label}", disable=None) as bar:
        for number, answer in judge.answers(list(todo.values())) if todo else ():
            if answer.status != FAILED:
                store.write({asked[number]: dataclasses.astuple(answer)})
            answers[asked[number]] = answer
            counts["computed"] += 1
            counts["failed"] += answer.status == FAILED
            bar.update(1)
    return [answers[key] for key in keys], counts
