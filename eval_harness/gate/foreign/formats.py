"""Which program wrote a file or folder, by what is in it."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from eval_harness.errors import UserError, first_line
from eval_harness.files.rows import UNREADABLE, whole_text
from eval_harness.gate.foreign import alpaca_eval, inspect, jsonl, lm_eval
from eval_harness.gate.foreign.results import ForeignRun

FORMATS: dict[str, ModuleType] = {r.NAME: r for r in (lm_eval, inspect, alpaca_eval, jsonl)}
EXPECTED = (
    "a run folder of ours, a folder of lm-eval (--log_samples), a log of Inspect (.eval, .json), annotations "
    "of alpaca_eval, or JSON Lines with id and score"
)


def check_there(path: Path) -> None:
    """Raise UserError unless there is a file or a folder."""
    if not (path.is_dir() or path.is_file()):  # reading a pipe would wait, and read it once
        raise UserError("no such result", got=path, expected=EXPECTED, remedy="check the path")


def read_foreign(path: Path, cluster: str | None = None) -> ForeignRun:
    """Read a result in whichever format it is.

    Raises:
      UserError: nothing there, no known format, or one that its reader refuses.
    """
    check_there(path)
    head = None if path.is_dir() or path.suffix == ".eval" else _head(path)
    for reader in FORMATS.values():
        if reader.is_mine(path, head):
            try:
                read: ForeignRun = reader.read(path, cluster)
            except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
                # Anything may stand where a reader looks for a number, a text or an object.
                raise UserError(
                    f"a result that is not as {reader.NAME} writes it",
                    got=f"{path.name}: {first_line(error)}",
                    expected=EXPECTED,
                    remedy="copy the file again, or measure again",
                ) from error
            if not read.items:
                raise UserError("an empty result", got=path, expected="at least one item")
            return read
    raise UserError("a result of no known format", got=path, expected=EXPECTED)


def _head(path: Path) -> Any:
    """The first row, or the object that the whole file is."""
    try:
        text = whole_text(path)
    except UNREADABLE as error:
        raise UserError("unreadable result", got=f"{path.name}: {error}", expected=EXPECTED) from error
    first = text.lstrip()[:1]
    for part in (text, text.lstrip().partition("\n")[0]) if first == "{" else (text,):
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            continue
        return value[0] if isinstance(value, list) and value else value
    raise UserError("unreadable result", got=f"{path.name}: no JSON", expected=EXPECTED)
