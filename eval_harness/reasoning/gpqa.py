"""GPQA with the order of choices a function of the question.

lm-eval's own `process_docs` shuffles with the global generator inside `Dataset.map`: the order depends on
which tasks were loaded before, on the seed and on the map cache, so two runs may not show the same prompts.
"""

import hashlib
from typing import Any

_ANSWERS = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3", "Correct Answer")


def choice_order(question: str, answers: list[str]) -> list[int]:
    """Permutation of the answers, sorted by sha256 of (question, answer): a function of the question."""
    keys = [
        hashlib.sha256(f"{question}\0{answer}\0{i}".encode()).digest() for i, answer in enumerate(answers)
    ]
    return sorted(range(len(answers)), key=keys.__getitem__)


def process_docs(dataset: Any) -> Any:
    """Add choice1..choice4 and answer, as lm-eval's leaderboard task expects them."""
    import importlib

    preprocess = importlib.import_module("lm_eval.tasks.leaderboard.gpqa.utils").preprocess

    def convert(doc: dict[str, Any]) -> dict[str, str]:
        answers = [preprocess(doc[name]) for name in _ANSWERS]
        order = choice_order(doc["Question"], answers)
        shown = {f"choice{i + 1}": answers[j] for i, j in enumerate(order)}
        return {**shown, "answer": f"({'ABCD'[order.index(len(answers) - 1)]})"}

    # Never from datasets' map cache: a cached shuffle of the shipped task must not be taken for ours.
    return dataset.map(convert, load_from_cache_file=False)
