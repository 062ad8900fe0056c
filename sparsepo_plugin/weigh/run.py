"""Scores a preference file and writes it with columns of weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sparsepo_plugin.adapters.pairs.texts import RowOptions
from sparsepo_plugin.adapters.pairs.turns import UnusableRowError
from sparsepo_plugin.adapters.pairs.weights import COLUMNS
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.run_folder.token_rows import TokenRows
from sparsepo_plugin.types import Masks, TokenStats
from sparsepo_plugin.weigh import pairs_file, summary
from sparsepo_plugin.weigh.halves import half_of
from sparsepo_plugin.weigh.pairs_file import Row
from sparsepo_plugin.weigh.placed import Placed, Placing, response_texts, spans
from sparsepo_plugin.weigh.scores import SCORERS, Batch, Words
from sparsepo_plugin.weigh.settings import Settings


def weigh(settings: Settings) -> None:
    """Write the data with their numbers; a run that was stopped goes on where it was.

    Raises:
      UserError: a flag, the data, a model or the output cannot be used.
    """
    settings.check()
    rows = pairs_file.read(settings.data)
    options = RowOptions(
        max_len=settings.max_len,
        limit_name="--max_len",
        prompt_key=_prompt_key(settings, rows),
        chosen_key=settings.chosen_key,
        rejected_key=settings.rejected_key,
        chat_template=settings.chat_template,
    )
    out = pairs_file.Growing(settings.out, _identity(settings))
    with out.open():
        if left := len(rows) - len(out.done):
            if out.done:
                print(f"{settings.out}: {len(out.done)} pairs were finished before")
            with tqdm(total=len(rows), initial=len(out.done), desc="Weighing", unit="pair") as bar:
                score = _by_words if settings.score == "words" else _by_models
                for finished in score(settings, options, rows[-left:], len(out.done)):
                    out.add(finished)
                    bar.update(len(finished))
    print(f"{settings.out}: {len(rows)} pairs, columns {' and '.join(COLUMNS.values())}")
    print("\n".join(summary.histogram(out.done)))
    if settings.page is not None:
        summary.write_page(_records(settings, options, out.done[: settings.show]), settings.page)


def _prompt_key(settings: Settings, rows: Sequence[Row]) -> str | None:
    key = settings.prompt_key
    if key and not any(key in row for row in rows):
        return None
    return key or None


def _identity(settings: Settings) -> dict[str, Any]:
    """Everything that the written rows depend on; the data by their content."""
    told = dataclasses.asdict(settings)
    for name in ("out", "overwrite", "page", "show", "batch_size", "device"):
        del told[name]
    told = {name: str(value) for name, value in told.items()}
    for name in ("data", "words"):
        path = getattr(settings, name)
        if path is not None and path.is_file():
            told[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for name in filter(None, (*settings.models, settings.against)):
        files = [path for path in Path(name).rglob("*") if path.is_file()]
        told[f"state of {name}"] = str(max((path.stat().st_mtime_ns for path in files), default=0))
    return told


def _by_words(settings: Settings, options: RowOptions, rows: Sequence[Row], first: int) -> Any:
    assert settings.words is not None
    words = Words(settings.words)
    for number, row in enumerate(rows, start=first):
        try:
            texts = response_texts(row, options)
        except UnusableRowError as error:
            raise UserError(f"--data {settings.data}: row {number}, {error}") from None
        yield [{**row, **{column: words.spans(text) for column, text in zip(COLUMNS.values(), texts)}}]


def _by_models(settings: Settings, options: RowOptions, rows: Sequence[Row], first: int) -> Any:
    tokenizer = _tokenizer(settings)
    placing = Placing(tokenizer, options)
    halves = [half_of(row, options.prompt_key) for row in rows]
    # Of two models the one that was trained on the other half.
    speaker = [1 - half if len(settings.models) == 2 else 0 for half in halves]
    scorers: dict[int, Callable[[Batch], tuple[Tensor, TokenStats]]] = {
        number: SCORERS[settings.score](name, settings) for number, name in enumerate(settings.models)
    }
    for start in range(0, len(rows), settings.batch_size):
        some = range(start, min(start + settings.batch_size, len(rows)))
        found: dict[int, Row] = {}
        for number, scorer in scorers.items():
            mine = [n for n in some if speaker[n] == number]
            if mine:
                where = f"--data {settings.data}: row"
                placed = [placing.place(rows[n], f"{where} {first + n}") for n in mine]
                written = _scored(scorer, placed, tokenizer.pad_token_id or 0, settings)
                found |= {n: {**rows[n], **columns} for n, columns in zip(mine, written)}
        yield [found[n] for n in some]


@torch.no_grad()
def _scored(
    scorer: Callable[[Batch], tuple[Tensor, TokenStats]],
    placed: Sequence[tuple[Placed, Placed]],
    pad: int,
    settings: Settings,
) -> list[dict[str, Any]]:
    sides = [pair[side] for side in (0, 1) for pair in placed]
    numbers, stats = scorer(Batch(sides, pad, settings.device))
    numbers = numbers.abs() if settings.absolute else numbers
    written = []
    for row, side in enumerate(sides):
        values = numbers[row][stats.response_mask[row]].tolist()
        # Without a prompt nothing predicts the first token.
        written.append(spans(values, side.characters[len(side.characters) - len(values) :]))
    pairs = len(placed)
    return [dict(zip(COLUMNS.values(), (written[n], written[pairs + n]))) for n in range(pairs)]


def _tokenizer(settings: Settings) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(settings.models[0])
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--model {settings.models[0]}: its tokenizer cannot be loaded: {reason}") from None


def _records(settings: Settings, options: RowOptions, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Token records of the first pairs: what a training makes of the columns that were written."""
    from sparsepo_plugin.adapters.pairs.prepare import Preparation
    from sparsepo_plugin.forward.window import numbers_in

    tokenizer = _tokenizer(settings)
    batch = {name: [row.get(name) for row in rows] for name in {name: None for row in rows for name in row}}
    made = Preparation(tokenizer, options, weighted=True)(batch, list(range(len(rows))))
    record = TokenRows(len(rows), tokenizer)
    for n in (n for n, kind in enumerate(made["kind"]) if not kind):
        sides = [Placed(made[side][n], made[f"{side}_start"][n], []) for side in COLUMNS]
        window = Batch(sides, tokenizer.pad_token_id or 0, "cpu").window
        numbers = numbers_in(window, [made[column][n] for column in COLUMNS.values()])
        response = ~window.labels[:, 1:].eq(-100)
        stats = TokenStats(torch.zeros_like(numbers), None, None, response)
        prompts = [torch.tensor(side.ids[: side.start]) for side in sides]
        record.add([n], window.token_ids, stats, Masks(numbers, None), prompts)
    return record.take()
