"""Sentiment and summaries: prompts, pairs and reward heads, as files in a work folder, made once."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import write_text
from study import data
from study.classifiers import Convolution, crops
from study.data import Pair, Review
from study.language import Language
from study.on_smollm2.plan import DTYPE, Scale
from study.pairs import label
from study.reward_head import LENGTH, RewardHead, train_on_labels, train_on_pairs

HELD_OUT = 500  # texts or pairs on which a reward head is judged


class Room(NamedTuple):
    """What all runs of a domain share.

    Attributes:
      name, scale: of the domain.
      model: folder of the start.
      language: the start, frozen, with its tokenizer.
      reward: head; check: another classifier, None for summaries.
      prompts: by split, as texts.
      work: folder with pool.jsonl (training pairs) and held.jsonl (pairs for the figures on pairs).
    """

    name: str
    scale: Scale
    model: Path
    language: Language
    reward: RewardHead
    check: Convolution | None
    prompts: dict[str, list[str]]
    work: Path


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """JSON Lines of prompt, chosen, rejected."""
    write_text(path, "".join(json.dumps(pair._asdict()) + "\n" for pair in pairs))


def furnish(root: Path, work: Path, name: str, scale: Scale, model: Path, encoder: Path) -> Room:
    """Read or make everything; judge.json in the work folder says how good the reward head is."""
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    start: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, DTYPE)).eval()
    language = Language(start.requires_grad_(False), tokenizer)
    if name == "sentiment":
        return _sentiment(root, work, scale, model, encoder, language)
    return _summaries(root, work, scale, model, encoder, language)


def _kept_head(work: Path, encoder: Path, length: int, train: Any) -> RewardHead:
    """The head of the work folder, or a new one that ``train`` fits and judges."""
    if not (work / "judge.json").is_file():
        head = RewardHead(encoder, length)
        found: Mapping[str, float] = train(head)
        head.save(work / "judge")
        write_text(work / "judge.json", json.dumps(dict(found), indent=1) + "\n")
    return RewardHead(work / "judge", length)


def beginnings(tokenizer: Any, texts: Sequence[str], tokens: int) -> list[str]:
    """The first tokens of every text that is longer, as different texts."""
    rows = tokenizer([text[: 12 * tokens] for text in texts], add_special_tokens=False)["input_ids"]
    return list(dict.fromkeys(tokenizer.decode(row[:tokens]) for row in rows if len(row) > tokens))


def _sentiment(root: Path, work: Path, scale: Scale, model: Path, encoder: Path, language: Language) -> Room:
    reviews, unseen = (data.reviews(root, f"text/imdb_{part}") for part in ("train", "valid"))
    half = len(unseen) // 2
    parts = {"pool": reviews, "validation": unseen[:half], "test": unseen[half:]}
    counts = {"pool": scale.pool, "validation": scale.validation, "test": scale.test}
    prompts = {
        name: _enough(
            beginnings(language.tokenizer, [r.text for r in part], scale.prompt), counts[name], name
        )
        for name, part in parts.items()
    }

    def train(head: RewardHead) -> dict[str, float]:
        # As short as what the policy writes, and whole ones.
        texts: list[Review] = [*crops(reviews, 40, 0), *reviews]
        random.Random(0).shuffle(texts)
        texts = texts[: scale.judged]
        chosen_by, tested = (crops(part, 40, 1)[:HELD_OUT] for part in (unseen[:half], unseen[half:]))
        found = train_on_labels(head, texts, chosen_by, 0)
        truth = torch.tensor([text.positive for text in tested])
        right = (head.logits([text.text for text in tested]) > 0) == truth
        return {**found, "test": float(right.float().mean())}

    head = _kept_head(work, encoder, 64, train)
    sentences = data.reviews(root, "text/rt_polarity")
    random.Random(0).shuffle(sentences)
    check = Convolution(sentences[: scale.judged])
    if not (work / "pool.jsonl").is_file():
        for file, part in (("held", "validation"), ("pool", "pool")):
            write_pairs(work / f"{file}.jsonl", _labelled(language, head, prompts[part], scale.response))
    return Room("sentiment", scale, model, language, head, check, prompts, work)


def _labelled(language: Language, head: RewardHead, prompts: Sequence[str], length: int) -> list[Pair]:
    """Of four continuations of every prompt, the best against the worst."""
    tokenizer = language.tokenizer
    ids = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    found = label(language, head, ids, length, seed=0, part=64)
    return [
        Pair(*(tokenizer.decode(part, skip_special_tokens=True) for part in pair))  # prompt, chosen, rejected
        for pair in found
    ]


def _enough(rows: list[Any], wanted: int, what: str) -> list[Any]:
    if len(rows) < wanted:
        raise UserError(
            f"{what}: got {len(rows)} that fit, expected at least {wanted}; see docs/study-real-plan.md"
        )
    return rows[:wanted]


def _summaries(root: Path, work: Path, scale: Scale, model: Path, encoder: Path, language: Language) -> Room:
    groups: dict[str, list[Pair]] = {}
    for name in ("preference/tldr_odpo_test", "preference/tldr_odpo_train"):
        for pair in data.pairs(root, name):
            groups.setdefault(pair.prompt, []).append(pair)

    def count(text: str) -> int:
        return len(language.tokenizer(text, add_special_tokens=False)["input_ids"])

    fit = [post for post in groups if count(post) <= scale.prompt]
    random.Random(0).shuffle(fit)
    fit = _enough(fit, scale.pool + scale.validation + 1, "posts")
    first, second = scale.pool, scale.pool + scale.validation
    posts = {"pool": fit[:first], "validation": fit[first:second], "test": fit[second:][: scale.test]}
    longer = [post for post in groups if post not in set(fit)] or fit[second + scale.test :]

    def pairs_of(some: Sequence[str]) -> list[Pair]:
        return [pair for post in some for pair in groups[post]]

    def train(head: RewardHead) -> dict[str, float]:
        cut = max(1, len(longer) // 6)
        mine = pairs_of(longer[cut:])
        random.Random(0).shuffle(mine)
        found = train_on_pairs(head, mine[: scale.judged], pairs_of(longer[:cut])[:HELD_OUT], 0)
        held = pairs_of(posts["test"])
        scores = head.logits([p.prompt + p.chosen for p in held]) - head.logits(
            [p.prompt + p.rejected for p in held]
        )
        longest = [len(p.chosen) > len(p.rejected) for p in held]
        right = {"test": float((scores > 0).float().mean()), "longer": sum(longest) / len(longest)}
        return {**found, **right}

    head = _kept_head(work, encoder, 2 * LENGTH, train)
    if not (work / "pool.jsonl").is_file():
        for file, part in (("held", "validation"), ("pool", "pool")):
            some = [
                pair
                for pair in pairs_of(posts[part])
                if max(count(pair.chosen), count(pair.rejected)) < scale.response
            ]
            _enough(some, 1, f"{file}: pairs")
            write_pairs(work / f"{file}.jsonl", some)
    return Room("summaries", scale, model, language, head, None, posts, work)
