"""Files of prompts, of a model's texts, and of AlpacaEval's annotations: JSON or JSON Lines, .gz or not."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError

PROMPT_KEYS = ("prompt", "instruction")
# AlpacaEval's annotations hold the model's text as output_2.
_OUTPUT_KEYS = ("output", "response", "output_2")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON list or of JSON Lines. Raises UserError: unreadable, or a line is no object."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(
            "file cannot be read", got=f"{path}: {error}", expected="JSON or JSON Lines"
        ) from error
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else _lines(text)
    except ValueError as error:
        raise UserError("file is not JSON", got=f"{path}: {error}", expected="JSON or JSON Lines") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number}", got=type(row).__name__, expected="an object")
    if not rows:
        raise UserError("file holds no rows", got=path, expected="at least one object")
    return rows


def _lines(text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return rows


def read_prompts(path: Path, keys: Sequence[str], limit: int | None) -> list[str]:
    """The first `limit` distinct prompts of a file, in its order.

    Several rows may share a prompt (preference pairs do): it is asked once.

    Raises:
      UserError: a row without any of the keys, or with a prompt that is empty or no text.
    """
    prompts: dict[str, None] = {}
    for number, row in enumerate(read_rows(path), start=1):
        prompts[_text(row, keys, f"{path}, row {number}")] = None
    return list(prompts)[:limit]


def _text(row: dict[str, Any], keys: Sequence[str], where: str, empty: bool = False) -> str:
    found = next((row[key] for key in keys if key in row), None)
    if not isinstance(found, str) or not (empty or found.strip()):
        raise UserError(
            where,
            got=sorted(row) if found is None else repr(found)[:60],
            expected=f"a text under {' or '.join(keys)}",
        )
    return sound(found)


def sound(text: str) -> str:
    """The text with `?` for lone surrogates, which JSON may hold and no file in UTF-8 can."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_outputs(path: Path) -> dict[str, str]:
    """Prompt -> text of a model's output file, both without white space at the ends.

    Raises:
      UserError: rows without prompt or text, two different texts for one prompt.
    """
    found: dict[str, str] = {}
    for number, row in enumerate(read_rows(path), start=1):
        where = f"{path}, row {number}"
        prompt = _text(row, PROMPT_KEYS, where).strip()
        text = _text(row, _OUTPUT_KEYS, where, empty=True).strip()
        if found.setdefault(prompt, text) != text:
            raise UserError(where, got=f"a second text for {prompt[:60]!r}", expected="one text per prompt")
    return found


def read_annotations(path: Path) -> list[tuple[str, str | None, str, float | None]]:
    """AlpacaEval annotations: (prompt, output_1, output_2, share of the win that goes to output_2).

    A preference runs from 1 (output_1) to 2 (output_2); 0 and 1.5 are ties, as in alpaca-eval 0.6; none is no
    judgement. output_1 is None where the file leaves it out.

    Raises:
      UserError: a row without prompt, output_2 or preference, or a preference out of range.
    """
    found: list[tuple[str, str | None, str, float | None]] = []
    for number, row in enumerate(read_rows(path), start=1):
        where = f"{path}, row {number}"
        prompt = _text(row, PROMPT_KEYS, where).strip()
        second = _text(row, ("output_2",), where, empty=True).strip()
        first = _text(row, ("output_1",), where, empty=True).strip() if "output_1" in row else None
        value = row.get("preference", "missing")
        number_given = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or (number_given and value != value):
            found.append((prompt, first, second, None))
        elif number_given and (value == 0 or 1 <= value <= 2):
            found.append((prompt, first, second, 0.5 if value == 0 else float(value) - 1))
        else:
            raise UserError(f"{where}: preference", got=value, expected="a number from 1 to 2, or null")
    return found
