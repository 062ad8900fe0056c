"""Multiple-choice items about the toy language, in the layout of two tasks that lm-eval ships.

`swag` (four endings) asks for grammar: the text's own continuation, or its words in an order that the grammar
forbids. `storycloze_2016` (two endings) asks for the topic: a sentence of the prompt's topic, or the same
sentence with one word of another topic. Preference training should keep both. Beside the items lie what an
evaluation of them needs: a data mapping, a task list and gates, in eval-harness's formats.
"""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

from sparsepo_plugin.demo.grammar import TOPICS, WORDS, walk
from sparsepo_plugin.demo.language import Pair, generate_pairs
from sparsepo_plugin.files import write_text

ENDING_WORDS, ENDINGS = 5, 4
# Topical word -> the words of its class, in which every topic owns an equal run, and its index there.
_TOPICAL = {
    word: (WORDS[name], index)
    for name in ("person", "thing", "verb")
    for index, word in enumerate(WORDS[name])
}
_SWAPS = [(i, j) for i in range(ENDING_WORDS) for j in range(i)]

_DATA = """version: 1
tasks:
  swag: {train: swag.jsonl, validation: swag.jsonl}
  storycloze_2016: {validation: storycloze.jsonl, test: storycloze.jsonl}
"""
_TASKS = """# Two capabilities of the toy language that preference training should keep.
version: 1
suite: reasoning
title: grammar and topic of the demo's toy language
sources: [swag, storycloze]
groups:
  - name: grammar
    metrics: ["acc,none"]
    shots: 0
    columns: [startphrase, ending0, ending1, ending2, ending3, label]
    cluster: startphrase
    tasks: {swag: 4}
  - name: topic
    metrics: ["acc,none"]
    shots: 0
    columns: [input_sentence_1, input_sentence_4, sentence_quiz1, sentence_quiz2, answer_right_ending]
    cluster: sentence_quiz1
    tasks: {storycloze_2016: 2}
"""
_GATES = """# A drop of margin must be excluded for KEPT.
version: 1
alpha: 0.05
margin: 0.03
discordance: 0.05
gates:
  grammar: {tasks: [swag], items: @N@}
  topic: {tasks: [storycloze_2016], items: @N@}
"""


def write_choice_tasks(folder: Path, items: int, seed: int) -> None:
    """Write items of both tasks and data.yaml, tasks.yaml, gates.yaml into a folder.

    Args:
      folder: created; files in it are replaced.
      items: per task.
      seed: of the items; the same seed gives the same files.
    """
    rng = random.Random(seed)
    pairs = generate_pairs(2 * items, seed)
    texts = [(pair, rng.choice((pair.chosen, pair.rejected)).split()) for pair in pairs]
    grammar = [row for pair, words in texts if (row := _grammar_row(pair, words, rng))]
    topic = [row for pair, words in texts if (row := _topic_row(pair, words, rng))]
    for name, rows in (("swag", grammar), ("storycloze", topic)):
        lines = "".join(json.dumps(row) + "\n" for row in rows[:items])
        write_text(folder / f"{name}.jsonl", lines)
    for name, text in (("data", _DATA), ("tasks", _TASKS), ("gates", _GATES.replace("@N@", str(items)))):
        write_text(folder / f"{name}.yaml", text)


def _grammatical(words: list[str]) -> bool:
    with contextlib.suppress(ValueError):
        return bool(list(walk(words)))
    return False


def _grammar_row(pair: Pair, words: list[str], rng: random.Random) -> dict[str, Any] | None:
    """The own continuation among swapped ones; None where too few swaps break the grammar."""
    cut = rng.randrange(2, len(words) - ENDING_WORDS)
    continuation, wrong = words[cut : cut + ENDING_WORDS], []
    for i, j in rng.sample(_SWAPS, k=len(_SWAPS)):
        swapped = continuation.copy()
        swapped[i], swapped[j] = continuation[j], continuation[i]
        if not _grammatical(words[:cut] + swapped):
            wrong.append(swapped)
    if len(wrong) < ENDINGS - 1:
        return None
    label = rng.randrange(ENDINGS)
    endings = wrong[: ENDINGS - 1]
    endings.insert(label, continuation)
    row: dict[str, Any] = {f"ending{i}": " ".join(ending) for i, ending in enumerate(endings)}
    return {"startphrase": " ".join([pair.prompt, *words[:cut]]), **row, "label": label}


def _topic_row(pair: Pair, words: list[str], rng: random.Random) -> dict[str, Any] | None:
    """The first sentence with its topical words of the prompt's topic, against one of them replaced."""
    stop = next(i for i, word in enumerate(words) if word in WORDS["stop"]) + 1
    topic = TOPICS.index(pair.prompt.split()[2])
    ours = [_moved(word, topic) for word in words[:stop]]
    slots = [i for i, word in enumerate(ours) if word in _TOPICAL]
    if not slots:
        return None
    slot, other = rng.choice(slots), rng.choice([t for t in range(len(TOPICS)) if t != topic])
    theirs = [*ours[:slot], _moved(ours[slot], other), *ours[slot + 1 :]]
    right = rng.randrange(2)
    quiz = [ours, theirs] if right == 0 else [theirs, ours]
    start = {f"input_sentence_{i}": word for i, word in enumerate(_quarters(pair.prompt), start=1)}
    return {
        **start,
        "sentence_quiz1": " ".join(quiz[0]),
        "sentence_quiz2": " ".join(quiz[1]),
        "answer_right_ending": right + 1,
    }


def _quarters(prompt: str) -> list[str]:
    words = prompt.split()
    return [words[0], words[1], words[2], " ".join(words[3:])]


def _moved(word: str, topic: int) -> str:
    """The word of the same rank under a topic, if it is topical."""
    if word not in _TOPICAL:
        return word
    words, index = _TOPICAL[word]
    run = len(words) // len(TOPICS)
    return words[topic * run + index % run]
