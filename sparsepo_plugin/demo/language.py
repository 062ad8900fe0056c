"""Preference pairs in a toy English whose preference-carrying words are known exactly.

Chosen and rejected responses come from one generator and are drawn independently, so they differ in many
ordinary words. In the modifier slots of the grammar a word is, with a known probability, *planted*: a polar
word, good with probability ``POLARITY`` in a chosen response and bad with that probability in a rejected one.
Otherwise it is an ordinary adjective, so neither its position nor its slot tells a planted word from others.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from sparsepo_plugin.demo.grammar import (
    BAD,
    CANDOUR,
    COUNTS,
    END,
    GOOD,
    GRAMMAR,
    POLAR,
    POLARITY,
    TOPICS,
    ordinary_words,
    successors,
    vocabulary,
    walk,
)
from sparsepo_plugin.demo.statistics import auc
from sparsepo_plugin.files import write_text

__all__ = [
    "BAD",
    "GOOD",
    "POLARITY",
    "Pair",
    "attainable_auc",
    "auc",
    "entropy_floor",
    "generate_pairs",
    "planted_posterior",
    "read_jsonl",
    "vocabulary",
    "write_jsonl",
]


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference pair; flags are per response word, true where the word was planted.

    Responses begin with a space, so ``prompt + chosen`` is the text. The end-of-text token has no flag.
    """

    prompt: str
    chosen: str
    rejected: str
    chosen_planted: tuple[bool, ...]
    rejected_planted: tuple[bool, ...]


def _draw(probabilities: Mapping[str, float], rng: random.Random) -> str:
    return rng.choices(tuple(probabilities), tuple(probabilities.values()))[0]


def _sample_response(
    ask: str, topic: str, is_chosen: bool, rng: random.Random
) -> tuple[str, tuple[bool, ...]]:
    words: list[str] = []
    flags: list[bool] = []
    state = _draw(successors("start", 0), rng)
    while state != END:
        word_class, rate, _ = GRAMMAR[state]
        planted = rng.random() < rate * CANDOUR[ask]
        if planted:
            words.append(rng.choice(GOOD if (rng.random() < POLARITY) == is_chosen else BAD))
        else:
            words.append(_draw(ordinary_words(word_class, topic), rng))
        flags.append(planted)
        state = _draw(successors(state, len(words)), rng)
    return " " + " ".join(words), tuple(flags)


def generate_pairs(count: int, seed: int) -> list[Pair]:
    """Draw preference pairs; the same seed gives the same pairs, and a larger count only appends.

    Raises:
      ValueError: count or seed is negative (Python's generator would treat seeds 1 and -1 alike).
    """
    if count < 0 or seed < 0:
        raise ValueError(f"generate_pairs: got count {count}, seed {seed}; expected both >= 0. Pass others.")
    rng = random.Random(seed)  # its stream is promised across Python versions; numpy's is not
    pairs = []
    for _ in range(count):
        ask, number, topic = rng.choice(tuple(CANDOUR)), rng.choice(COUNTS), rng.choice(TOPICS)
        (chosen, good), (rejected, bad) = (_sample_response(ask, topic, side, rng) for side in (True, False))
        pairs.append(Pair(f"{ask} {number} {topic} scene :", chosen, rejected, good, bad))
    return pairs


def _parse_prompt(prompt: str) -> tuple[str, str]:
    match prompt.split():
        case [ask, number, topic, "scene", ":"] if ask in CANDOUR and number in COUNTS and topic in TOPICS:
            return ask, topic
    raise ValueError(f"not a prompt of this language: got {prompt!r}; expected one from generate_pairs.")


def planted_posterior(prompt: str, response_words: Sequence[str]) -> list[float]:
    """Return P(word i is planted | the prompt and the words before i), per word.

    Exact: the words before i reveal the state, and whether a word is planted depends on nothing else. That
    there is a word i tells nothing more: where a response may end, no planted word can follow.

    Raises:
      ValueError: the prompt or the words are not of this language.
    """
    ask, _ = _parse_prompt(prompt)
    posterior = []
    for row, _ in walk(response_words):
        planted = sum(share * GRAMMAR[state][1] for state, share in row.items() if state != END)
        posterior.append(CANDOUR[ask] * planted)
    return posterior


def entropy_floor(pairs: Sequence[Pair]) -> float:
    """Loss of the best next-token predictor on both responses of the pairs, in nats per token, end included.

    The predictor is not told which side it reads: it gives the mixture of the two. This is the language's
    entropy up to sampling noise, so a model trained on both sides can approach it, not beat it, on new pairs.

    Raises:
      ValueError: a prompt or a response is not of this language.
    """
    total, tokens = 0.0, 0
    for pair in pairs:
        for response in (pair.chosen, pair.rejected):
            words = response.split()
            total -= _log_mixture(pair.prompt, words)
            tokens += len(words) + 1
    return total / tokens if tokens else math.nan


def _log_mixture(prompt: str, words: Sequence[str]) -> float:
    """Log of the mean of the response's probabilities as chosen and as rejected, nats, end included."""
    ask, topic = _parse_prompt(prompt)
    shared, good, bad, state = 0.0, 0, 0, "start"
    for word, (row, state) in zip(words, walk(words), strict=True):
        word_class, rate, _ = GRAMMAR[state]
        planting = rate * CANDOUR[ask]
        if word in POLAR:
            shared += math.log(row[state] * planting / len(GOOD))
            good, bad = good + (word in GOOD), bad + (word in BAD)
        else:
            shared += math.log(row[state] * (1 - planting) * ordinary_words(word_class, topic)[word])
    end = successors(state, len(words)).get(END, 0.0)
    if not end:
        raise ValueError(
            f"a response cannot end here: got {len(words)} words, {' '.join(words)!r}; expected whole "
            "sentences. Pass complete responses from generate_pairs."
        )
    right, wrong = math.log(POLARITY), math.log(1 - POLARITY)
    mixture = np.logaddexp(good * right + bad * wrong, good * wrong + bad * right) - math.log(2)
    return shared + math.log(end) + float(mixture)


def attainable_auc(pairs: Sequence[Pair]) -> float:
    """AUC of ``planted_posterior`` over all response words: what a mask that reads only the prefix can reach.

    By the Neyman-Pearson lemma, ranking by the likelihood ratio P(prefix | planted) / P(prefix | not planted)
    gives the highest true-positive rate at every false-positive rate, hence the highest AUC. By Bayes that
    ratio rises with the posterior, so both rank alike. It bounds expected AUC; samples scatter around it.
    """
    scores: list[float] = []
    labels: list[bool] = []
    for pair in pairs:
        sides = ((pair.chosen, pair.chosen_planted), (pair.rejected, pair.rejected_planted))
        for response, planted in sides:
            scores += planted_posterior(pair.prompt, response.split())
            labels += planted
    return auc(scores, labels)


def write_jsonl(pairs: Sequence[Pair], path: str | os.PathLike[str], *, weighted: bool = False) -> None:
    """Write one JSON object per pair; a reader sees the old file or the whole new one, never a part.

    Args:
      pairs: to write.
      path: of the file.
      weighted: also columns of token weights: 1 on planted words, a tenth on every second other one.
    """
    rows = [asdict(pair) for pair in pairs]
    if weighted:
        for row in rows:
            for side in ("chosen", "rejected"):
                row[f"{side}_weights"] = _weights(row[side], row[f"{side}_planted"])
    write_text(Path(path), "".join(json.dumps(row) + "\n" for row in rows))


def _weights(response: str, planted: Sequence[bool]) -> list[list[float]]:
    """Spans [start, end, weight] of a response's words, in characters."""
    words = [(match.start(), match.end()) for match in re.finditer(r"\S+", response)]
    return [
        [start, end, 1.0 if flag else 0.1]
        for number, ((start, end), flag) in enumerate(zip(words, planted))
        if flag or number % 2
    ]


def read_jsonl(path: str | os.PathLike[str]) -> list[Pair]:
    """Read the pairs that ``write_jsonl`` wrote.

    Raises:
      ValueError: a line is not a pair, or its flags do not match its words; the message names the line.
    """
    with open(path, encoding="utf-8") as stream:
        return [_parse_line(line, f"{path}, line {number}") for number, line in enumerate(stream, start=1)]


def _parse_line(line: str, where: str) -> Pair:
    names = {field.name for field in fields(Pair)}
    remedy = "Write the file again with write_jsonl."
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: got {line[:60]!r}, which is not JSON ({error}). {remedy}") from error
    if not isinstance(row, dict) or set(row) != names:
        got = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"{where}: got {got}; expected an object with the fields {sorted(names)}. {remedy}")
    for side in ("chosen", "rejected"):
        flags, words = row[f"{side}_planted"], row[side].split()
        if len(flags) != len(words):
            raise ValueError(f"{where}: got {len(flags)} flags for {len(words)} words of {side}. {remedy}")
        row[f"{side}_planted"] = tuple(bool(flag) for flag in flags)
    return Pair(**row)
