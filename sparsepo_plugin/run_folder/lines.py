"""Files of JSON lines: how they are appended to, cut, and read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import write_text


def append(path: Path, row: dict[str, Any]) -> None:
    """Append an object as a line."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def keep_until(path: Path, step: int) -> None:
    """Keep an interrupted run's lines up to a step (0: none); what came after it is done again."""
    text = path.read_text(encoding="utf-8") if step and path.is_file() else ""
    # The last piece has no newline: it is empty, or a line that a kill cut off.
    complete = text.split("\n")[:-1]
    write_text(path, "".join(f"{line}\n" for line in complete if json.loads(line)["step"] <= step))


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line.

    Raises:
      UserError: the file is missing or no JSON lines.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a file of JSON lines") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: got bytes that are not UTF-8, expected a file of JSON lines") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"{path} line {number}: got no JSON ({error}); is the file cut off? write it again"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: got {type(row).__name__}, expected a JSON object")
        yield number, row
