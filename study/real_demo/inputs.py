"""The demo's inputs, as files for `sparsepo` and `eval-harness`, from a folder of data that the user names.

Dialogues (Anthropic HH, helpful) train and judge; posts (TL;DR) are summarised; HellaSwag, ARC-Challenge and
IFEval are asked. No prompt is in two parts.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import write_text
from study import data
from study.data import Pair
from study.real_demo.sizes import Sizes

HERE = Path(__file__).parent
Count = Callable[[str], int]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_inputs(root: Path, out: Path, sizes: Sizes, count: Count, seed: int) -> None:
    """Write all of them.

    Args:
      root: the user's data.
      out: folder of the inputs.
      sizes: how much.
      count: tokens of a text.
      seed: of every choice.

    Raises:
      UserError: a file is missing, or has too few rows that are short enough.
    """
    _dialogues(root, out, sizes, count, seed)
    documents = _documents(root, sizes, count)
    write_lines(out / "documents.jsonl", ({"document": text} for text in documents))
    _tasks(root, out, sizes)


def short(pairs: Iterable[Pair], sizes: Sizes, count: Count) -> list[Pair]:
    """Pairs of different prompts, short enough."""
    different = {pair.prompt: pair for pair in pairs if pair.chosen != pair.rejected}
    return [
        pair
        for pair in different.values()
        if count(pair.prompt) <= sizes.prompt
        and max(count(pair.chosen), count(pair.rejected)) <= sizes.response
    ]


def _enough(rows: list[Any], wanted: int, what: str) -> list[Any]:
    if len(rows) < wanted:
        raise UserError(f"{what}: got {len(rows)} that are short enough, expected at least {wanted}")
    return rows[:wanted]


def _dialogues(root: Path, out: Path, sizes: Sizes, count: Count, seed: int) -> None:
    train = data.pairs(root, "preference/hh_helpful_train")
    test = data.pairs(root, "preference/hh_helpful_test")
    random.Random(seed).shuffle(train)
    policy = _enough(short(train, sizes, count), sizes.pairs, "hh_helpful_train: pairs")
    mine = {pair.prompt for pair in policy}
    # The reward head learns from other dialogues, of any length: it reads their ends.
    judge = [pair for pair in train if pair.prompt not in mine]
    held = short(test, sizes, count)
    watched = _enough(held, sizes.watched, "hh_helpful_test: pairs")
    half = len(test) // 2
    parts = {
        "train": policy,
        "watched": watched,
        "judge": _enough(judge, sizes.judge_pairs, "hh_helpful_train: pairs of the reward head"),
        "judge_valid": test[:half][: sizes.people],
        "people": test[half:][: sizes.people],
    }
    for name, pairs in parts.items():
        write_lines(out / f"{name}.jsonl", (pair._asdict() for pair in pairs))
    prompts = list(dict.fromkeys(pair.prompt for pair in test if count(pair.prompt) <= sizes.prompt))
    chosen = _enough(prompts, sizes.prompts, "hh_helpful_test: prompts")
    write_lines(out / "prompts.jsonl", ({"prompt": prompt} for prompt in chosen))


def _documents(root: Path, sizes: Sizes, count: Count) -> list[str]:
    """Posts, without the mark that the preset adds; no policy trained on them."""
    files = ("preference/tldr_odpo_test", "preference/tldr_odpo_train")
    pairs = itertools.chain.from_iterable(data.pairs(root, name) for name in files)
    posts = dict.fromkeys(pair.prompt.removesuffix("TL;DR:").rstrip() for pair in pairs)
    return _enough(
        [post for post in posts if count(post) <= sizes.document], sizes.documents, "tldr_odpo: posts"
    )


def _tasks(root: Path, out: Path, sizes: Sizes) -> None:
    """The presets with their numbers of items, and the mapping of tasks to files."""
    names = ("arc_challenge_test", "hellaswag_val", "ifeval")
    files = {name: str(_file(root, f"eval/{name}")) for name in names}
    arc = {"file": files["arc_challenge_test"], "convert": "arc_original"}
    swag = {"file": files["hellaswag_val"]}
    # lm-eval reads a training split even where no prompt shows examples.
    mapping = {
        "arc_challenge": {"train": {**arc, "take": 5, "standin": True}, "validation": arc, "test": arc},
        "hellaswag": {"train": {**swag, "take": 5, "standin": True}, "validation": swag},
        "leaderboard_ifeval": {"train": files["ifeval"]},
    }
    write_text(out / "data.yaml", yaml.safe_dump({"version": 1, "tasks": mapping}))
    for name in ("tasks", "instructions"):
        preset = yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))
        for group in preset["groups"]:
            group["limit"] = sizes.tasks()[group["name"]]
        write_text(out / f"{name}.yaml", yaml.safe_dump(preset, sort_keys=False))


def _file(root: Path, name: str) -> Path:
    for path in (root / f"{name}.jsonl.gz", root / f"{name}.jsonl"):
        if path.is_file():
            return path.resolve()
    raise UserError(
        f"{root / name}.jsonl.gz: no such file; expected the data named in docs/real-model.md; "
        "name their folder with DATA=... (make) or --data"
    )
