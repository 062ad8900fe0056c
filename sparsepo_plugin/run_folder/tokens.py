"""tokens.jsonl: what the masks did in an evaluation, token by token; written here, and read strictly.

One line per response: ``schema_version``, ``step``, ``pair`` (index in the evaluation data), ``side``
("chosen" or "rejected"), ``prompt`` (text), and lists with one entry per response token: ``tokens`` (text),
``token_ids``, ``reward_mask``, ``kl_mask`` (null without a KL term), ``log_ratio`` and ``token_kl`` (nats;
null without a reference); and ``joined``: [start, end, text] of tokens that are characters only together, and
``spaced``: places of tokens that follow a space which their own text lacks.
Lines are sorted by pair, chosen first. tokens_earlier.jsonl holds the records of up to nine earlier
evaluations in the same form, spread evenly over the steps, in order of them.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import write_text
from sparsepo_plugin.run_folder import histograms
from sparsepo_plugin.run_folder.lines import json_lines

FILE, EARLIER = "tokens.jsonl", "tokens_earlier.jsonl"
_EARLIER_KEPT = 9
# How the lines that ``write`` writes begin: their step is read without reading the rest.
_HEAD = re.compile(r'\{"schema_version": \d+, "step": (\d+),')
SCHEMA_VERSION = 1
MEASURED = ("reward_mask", "kl_mask", "log_ratio", "token_kl")
_REMEDY = "record it again with --LOSS.record N"
Values = list[float | None]


class Response(NamedTuple):
    """One response; lists have one entry per token.

    Attributes:
      tokens: text of every token alone.
      token_ids: numbers of the tokens.
      joined: (start, end, text) of tokens that are characters only together.
      spaced: places of tokens that follow a space which their own text lacks.
      values: the measured lists by name, None where the loss has none; not finite numbers are None.
    """

    tokens: list[str]
    token_ids: list[int]
    joined: list[tuple[int, int, str]]
    values: dict[str, Values | None]
    spaced: tuple[int, ...] = ()


class Pair(NamedTuple):
    """Both responses to a prompt; ``number`` is the pair's place in the evaluation data."""

    number: int
    prompt: str
    chosen: Response
    rejected: Response


class Record(NamedTuple):
    """Pairs in order of their number, after ``step`` training steps."""

    step: int
    pairs: list[Pair]


def write(folder: Path, step: int, rows: list[dict[str, Any]]) -> None:
    """Write the rows of all processes, atomically; an earlier evaluation's record moves to EARLIER.

    A pair seen twice, because it pads the evaluation data to the number of processes, is written once.
    """
    unique = {(row["pair"], row["side"]): row for row in rows}
    head = {"schema_version": SCHEMA_VERSION, "step": step}
    written = (json.dumps({**head, **unique[key]}, ensure_ascii=False) for key in sorted(unique))
    # First the copy, then what it is of: a kill between the two leaves a record twice, and none nowhere.
    keep_before(folder, step)
    write_text(folder / FILE, "".join(line + "\n" for line in written))
    histograms.append(folder, head, list(unique.values()))


def keep_before(folder: Path, step: int) -> None:
    """Keep in EARLIER what both files hold of evaluations before a step; thinned where they are many."""
    by_step: dict[int, list[str]] = {}
    for path in (folder / EARLIER, folder / FILE):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
        read: dict[int, list[str]] = {}
        for line in lines:
            if (head := _HEAD.match(line)) and int(head[1]) < step:
                read.setdefault(int(head[1]), []).append(line)
        by_step |= read
    steps = sorted(by_step)
    while len(steps) > _EARLIER_KEPT:
        # The one without which the steps stay the most even; the first stays.
        gaps = [after - before for before, after in zip(steps, [*steps[2:], step])]
        del steps[1 + gaps.index(min(gaps))]
    if by_step or (folder / EARLIER).is_file():
        kept = (line for one in steps for line in by_step[one])
        write_text(folder / EARLIER, "".join(line + "\n" for line in kept))


def locate(path: Path) -> Path:
    """The record's file, given itself or the folder of its run.

    Raises:
      UserError: neither is there.
    """
    if path.is_dir():
        if not (path / FILE).is_file():
            raise UserError(f"{path}: got no {FILE} there, expected a token record; {_REMEDY}")
        return path / FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a {FILE} or the folder of a run that has one")
    return path


def read(path: Path) -> Record:
    """Read a record, the last one of a file that holds several.

    Raises:
      UserError: what is wrong, with the number of the line.
    """
    return _records(path)[-1]


def read_steps(path: Path) -> list[Record]:
    """Read a record and those of earlier evaluations beside it, in order of their steps.

    Raises:
      UserError: as ``read``.
    """
    last, earlier = _records(path), path.with_name(EARLIER)
    has_earlier = path.name == FILE and earlier.is_file() and earlier.stat().st_size > 0
    before = [one for one in _records(earlier) if one.step < last[0].step] if has_earlier else []
    return [*before, *last]


def _records(path: Path) -> list[Record]:
    by_step: dict[int, dict[tuple[int, str], tuple[str, Response]]] = {}
    for number, row in json_lines(path):
        where = f"{path} line {number}"
        _check_head(row, where)
        key, responses = (row["pair"], row["side"]), by_step.setdefault(row["step"], {})
        if key in responses:
            raise UserError(f"{where}: got pair {key[0]} {key[1]} twice, expected once; {_REMEDY}")
        responses[key] = row["prompt"], _response(row, where)
    if not by_step:
        raise UserError(f"{path}: got no responses, expected at least one pair; {_REMEDY}")
    return [
        Record(
            step, [_pair(index, by_step[step], path) for index in sorted({key[0] for key in by_step[step]})]
        )
        for step in sorted(by_step)
    ]


def _pair(index: int, responses: dict[tuple[int, str], tuple[str, Response]], path: Path) -> Pair:
    sides = {side: responses.get((index, side)) for side in ("chosen", "rejected")}
    chosen, rejected = sides["chosen"], sides["rejected"]
    if chosen is None or rejected is None:
        missing = "chosen" if chosen is None else "rejected"
        raise UserError(f"{path}: pair {index} has no {missing} response, expected both; {_REMEDY}")
    return Pair(index, chosen[0], chosen[1], rejected[1])


def _check_head(row: dict[str, Any], where: str) -> None:
    version = row.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{where}: got schema_version {version!r}, expected {SCHEMA_VERSION}; "
            f"use the sparsepo that wrote it, or {_REMEDY}"
        )
    for key, kind in (("pair", int), ("step", int), ("side", str), ("prompt", str)):
        if not isinstance(row.get(key), kind) or isinstance(row.get(key), bool):
            got = repr(row.get(key))[:60]
            raise UserError(f"{where}, key {key}: got {got}, expected {kind.__name__}; {_REMEDY}")
    if row["side"] not in ("chosen", "rejected"):
        raise UserError(
            f"{where}, key side: got {row['side'][:60]!r}, expected chosen or rejected; {_REMEDY}"
        )


def _response(row: dict[str, Any], where: str) -> Response:
    tokens = _list(row, "tokens", str, where)
    size = len(tokens)
    ids = _list(row, "token_ids", int, where, size)
    values: dict[str, Values | None] = {}
    for key in MEASURED:
        given = None if row.get(key) is None else _list(row, key, (int, float, type(None)), where, size)
        values[key] = None if given is None else [_finite(value) for value in given]
    if values["reward_mask"] is None:
        raise UserError(f"{where}, key reward_mask: got None, expected a list of {size} numbers; {_REMEDY}")
    spaced = _list({"spaced": [], **row}, "spaced", int, where)
    return Response(tokens, ids, _spans(row.get("joined") or [], size, where), values, tuple(spaced))


def _list(row: dict[str, Any], key: str, kind: Any, where: str, size: int | None = None) -> list[Any]:
    value = row.get(key)
    if not isinstance(value, list) or any(not isinstance(x, kind) or isinstance(x, bool) for x in value):
        raise UserError(f"{where}, key {key}: got {repr(value)[:60]}, expected a list; {_REMEDY}")
    if size is not None and len(value) != size:
        raise UserError(
            f"{where}, key {key}: got {len(value)} entries, expected {size}, one per token; {_REMEDY}"
        )
    return value


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _spans(given: Any, size: int, where: str) -> list[tuple[int, int, str]]:
    spans, last = [], 0
    for item in given if isinstance(given, list) else [given]:
        good = isinstance(item, list) and [type(part) for part in item] == [int, int, str]
        if not good or not last <= item[0] < item[1] <= size:
            raise UserError(
                f"{where}, key joined: got {repr(item)[:60]}, expected [start, end, text] in order; {_REMEDY}"
            )
        spans.append((item[0], item[1], item[2]))
        last = item[1]
    return spans
