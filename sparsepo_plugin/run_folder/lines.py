"""Files of JSON lines: how they are appended to, cut, and read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import write_text


def append(path: Path, row: dict[str, Any]) -> None:
    """Append an object as a line."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def keep_until(path: Path, step: int) -> None:
    """Keep an interrupted run's lines up to a step (0: none); what came after it is done again.

    Lines that cannot be read are left out, and said: training does not depend on them.
    """
    # The last piece has no newline: it is empty, or a line that a kill cut off.
    complete = path.read_bytes().split(b"\n")[:-1] if step and path.is_file() else []
    kept, reached, unread = [], [0], 0
    for line in complete:
        try:
            row = json.loads(line)
            if row["step"] <= step:
                kept.append(line.decode())
                reached.append(row["step"])
        except (ValueError, KeyError, TypeError):
            unread += 1
    apart = max((after - before for before, after in pairwise(reached)), default=1)
    if unread or step - reached[-1] >= max(1, apart):
        fault = "was cut or damaged" if path.is_file() else "is not there"
        print(
            f"warning: {path} {fault}: {len(kept)} lines up to step {reached[-1]} are kept, "
            f"training goes on after step {step}"
        )
    write_text(path, "".join(f"{line}\n" for line in kept))


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
