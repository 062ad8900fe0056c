"""Dialogue and summaries: preference pairs of people, split by prompt, as token ids."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from study import data
from study.prepared import TokenPair


@dataclass(frozen=True)
class Domain:
    """A kind of preference data.

    Attributes:
      train, test: files with pairs.
      prompt: tokens kept of a prompt, its end.
      response: tokens kept of a response, its beginning.
      held: prompts that validation and test each get at least; training prompts fill up.
      claimed: win rate over DPO's that the paper reports for this kind of data.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    prompt: int
    response: int
    held: int
    claimed: float


# Of the training prompts; a run takes a few hundred pairs, the reward model all that it can get.
POLICY_SHARE = 1 / 3
# What people prefer in helpful and in harmless dialogues contradicts each other in what can be counted (the
# longer one, the shorter one): one reward model of both was at chance.
DOMAINS = {
    "helpful": Domain(
        ("preference/hh_helpful_train",), ("preference/hh_helpful_test",),
        prompt=24, response=40, held=300, claimed=0.03,
    ),
    "harmless": Domain(
        ("preference/hh_harmless_filtered_train",), ("preference/hh_harmless_filtered_test",),
        prompt=24, response=40, held=300, claimed=0.03,
    ),
    "summaries": Domain(
        ("preference/tldr_odpo_train",), ("preference/tldr_odpo_test",),
        prompt=48, response=40, held=120, claimed=0.10,
    ),
}  # fmt: skip


class Split(NamedTuple):
    """Pairs of one purpose; pairs of one prompt stay together."""

    pairs: list[TokenPair]

    def prompts(self, most: int) -> list[list[int]]:
        """Different prompts, in the order of their first pair."""
        return [list(p) for p in dict.fromkeys(tuple(pair.prompt) for pair in self.pairs)][:most]


def grouped(root: Path, domain: Domain) -> dict[str, list[list[data.Pair]]]:
    """Groups of pairs of one prompt: for the policy, the reward model, validation and the test.

    No prompt is in two parts; the validation and test parts come from the files of held-out pairs first.
    """
    train = _by_prompt([pair for name in domain.train for pair in data.pairs(root, name)], 0)
    held = _by_prompt([pair for name in domain.test for pair in data.pairs(root, name)], 1)
    missing = max(0, min(2 * domain.held - len(held), len(train) // 2))
    held, train = held + train[:missing], train[missing:]
    first = round(len(train) * POLICY_SHARE)
    return {"policy": train[:first], "reward": train[first:], "validation": held[::2], "test": held[1::2]}


def splits(root: Path, domain: Domain, tokenizer: PreTrainedTokenizerFast) -> dict[str, Split]:
    """The pairs of every part as token ids."""
    return {
        name: Split(encode(tokenizer, [pair for group in groups for pair in group], domain))
        for name, groups in grouped(root, domain).items()
    }


def _by_prompt(pairs: Sequence[data.Pair], seed: int) -> list[list[data.Pair]]:
    groups: dict[str, list[data.Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.prompt, []).append(pair)
    found = list(groups.values())
    random.Random(seed).shuffle(found)
    return found


def encode(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[data.Pair], domain: Domain) -> list[TokenPair]:
    """Token ids; a response that fits ends with the end token. Pairs that cutting made equal are dropped."""

    def ids(texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return found

    end = tokenizer.eos_token_id
    columns = [ids([pair[place] for pair in pairs]) for place in range(3)]
    rows = []
    for prompt, chosen, rejected in zip(*columns):
        sides = [[*side, end][: domain.response] for side in (chosen, rejected)]
        if sides[0] != sides[1]:
            rows.append(TokenPair(prompt[-domain.prompt :], *sides))
    return rows
