"""Batches of preference pairs of random tokens, with the lengths of real data or with made ones."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

LENGTHS = Path(__file__).with_name("lengths")
PAD, END, FIRST = 0, 1, 3
# Upstream drops pairs whose prompt leaves fewer tokens than this, and cuts responses at the limit.
ROOM = 2


@dataclass(frozen=True)
class Workload:
    """What a step is fed.

    Attributes:
      name: "tldr" or "hh": lengths from lengths/NAME.json; "made": as ``length`` and ``share`` say; "spread":
        around them, as ragged as a chat's.
      vocabulary: entries of the model's vocabulary.
      pairs: pairs of an optimizer step.
      micro: pairs of a forward pass.
      most: tokens at which a row is cut; 512 is upstream's default. 0: no limit.
      length: tokens of both rows of a made pair.
      share: the prompt's share of a made row.
    """

    name: str
    vocabulary: int = 32_000
    pairs: int = 4
    micro: int = 4
    most: int = 512
    length: int = 0
    share: float = 0.0

    def label(self) -> str:
        """Short name for tables."""
        if self.name not in ("made", "spread"):
            return self.name
        return f"{self.name}, {self.length} tokens, prompt {self.share:.0%}"


class PairBatch(NamedTuple):
    """Pairs of one forward pass, as upstream's loader gives them.

    Attributes:
      chosen: ids and attention mask, [pairs, seq] each, right-padded.
      rejected: the same, [pairs, seq'].
      prompts: prompt tokens of every pair.
    """

    chosen: tuple[Tensor, Tensor]
    rejected: tuple[Tensor, Tensor]
    prompts: list[int]

    def to(self, device: torch.device | str) -> PairBatch:
        """The batch on another device."""
        chosen, rejected = (tuple(value.to(device) for value in side) for side in self[:2])
        return PairBatch((chosen[0], chosen[1]), (rejected[0], rejected[1]), self.prompts)

    def tokens(self) -> int:
        """Tokens of the two rows per pair, padding left out."""
        return int(self.chosen[1].sum() + self.rejected[1].sum())

    def padded(self) -> int:
        """Positions that two rows per pair take, padded to the longest."""
        return 2 * len(self.prompts) * max(self.chosen[0].shape[1], self.rejected[0].shape[1])

    def responses(self) -> int:
        """Response tokens."""
        return self.tokens() - 2 * sum(self.prompts)


Step = list[PairBatch]


def triples(work: Workload) -> list[tuple[int, int, int]]:
    """Prompt, chosen and rejected lengths to draw from, cut as upstream cuts them.

    Raises:
      ValueError: the workload is not known, or nothing fits.
    """
    if work.name == "made":
        prompt = max(1, round(work.length * work.share))
        response = work.length - prompt
        if response < 1:
            raise ValueError(f"made pairs: got length {work.length} and share {work.share}, no response left")
        return [(prompt, response, response)]
    if work.name == "spread":
        return _spread(work)
    path = LENGTHS / f"{work.name}.json"
    if not path.is_file():
        known = sorted(file.stem for file in LENGTHS.glob("*.json"))
        raise ValueError(f"workload: got {work.name!r}, expected made or one of {known}")
    found = []
    for prompt, *responses in json.loads(path.read_text())["tokens"]:
        room = work.most - prompt if work.most else max(responses)
        if not work.most or room > ROOM:
            found.append((prompt, min(responses[0], room), min(responses[1], room)))
    if not found:
        raise ValueError(f"workload {work.name}: no pair fits into {work.most} tokens")
    return found


def _spread(work: Workload) -> list[tuple[int, int, int]]:
    """Log-normal lengths with a deviation of 0.6, each part by itself; no data set's, and none is needed."""
    rng = random.Random(0)

    def some(centre: float) -> int:
        return max(1, round(centre * math.exp(rng.gauss(0, 0.6))))

    prompt, response = work.length * work.share, work.length * (1 - work.share)
    return [(some(prompt), some(response), some(response)) for _ in range(400)]


def steps(work: Workload, count: int, seed: int = 0) -> list[Step]:
    """Draw optimizer steps; both responses of a pair begin differently, so only prompts are shared."""
    rng, known = random.Random(seed), triples(work)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        sizes = [rng.choice(known) for _ in range(work.pairs)]
        pairs = [_pair(size, work.vocabulary, generator) for size in sizes]
        found.append([collate(pairs[at : at + work.micro]) for at in range(0, work.pairs, work.micro)])
    return found


def by_length(step: Step, order: list[int]) -> Step:
    """The same pairs in another order, in micro-batches of the same number."""
    pairs = [pair for batch in step for pair in _separate(batch)]
    micro, moved = len(step[0].prompts), [pairs[index] for index in order]
    return [collate(moved[at : at + micro]) for at in range(0, len(moved), micro)]


def sizes(step: Step) -> list[int]:
    """Tokens of every pair, those of the prompt once."""
    return [len(c) + len(r) - prompt for batch in step for c, r, prompt in _separate(batch)]


Pair = tuple[Tensor, Tensor, int]


def collate(pairs: list[Pair]) -> PairBatch:
    """Pad chosen and rejected rows on the right, each side to its own longest."""
    sides = (_padded([pair[0] for pair in pairs]), _padded([pair[1] for pair in pairs]))
    return PairBatch(*sides, [pair[2] for pair in pairs])


def _separate(batch: PairBatch) -> list[Pair]:
    rows = [[ids[mask.bool()] for ids, mask in zip(*side)] for side in (batch.chosen, batch.rejected)]
    return list(zip(*rows, batch.prompts))


def _pair(size: tuple[int, int, int], vocabulary: int, generator: torch.Generator) -> Pair:
    prompt, chosen, rejected = (
        torch.randint(FIRST, vocabulary, (count,), generator=generator) for count in size
    )
    if len(chosen) and len(rejected) and chosen[0] == rejected[0]:
        rejected[0] = FIRST if chosen[0] != FIRST else FIRST + 1
    return torch.cat([prompt, chosen]), torch.cat([prompt, rejected]), len(prompt)


def _padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()
