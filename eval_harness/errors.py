"""The one error a user sees: what is wrong, what was got, what was expected, what to do."""

import difflib
import sqlite3
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the input that the user can repair; printed as one line, exit code 2, no traceback."""

    def __init__(self, what: str, *, got: object = "", expected: object = "", remedy: str = "") -> None:
        """Build the one-line message.

        Args:
          what: what is wrong, in plain words.
          got: the offending value.
          expected: what would have been accepted.
          remedy: the command or edit that repairs it.
        """
        parts = [what]
        parts += [f"got: {got}"] if got != "" else []
        parts += [f"expected: {expected}"] if expected != "" else []
        parts += [f"remedy: {remedy}"] if remedy else []
        # Upstream messages may span lines; the contract is one line per mistake.
        super().__init__(" ".join("; ".join(parts).split()))


def together(mistakes: list[UserError], most: int = 10) -> UserError:
    """Several mistakes as one error: each named once, the first `most` of them."""
    texts = list(dict.fromkeys(map(str, mistakes)))
    if len(texts) == 1:
        return mistakes[0]
    listed = " ".join(f"({number}) {text}" for number, text in enumerate(texts[:most], 1))
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return UserError(f"{len(texts)} mistakes: {listed}{more}")


def refused(error: OSError | MemoryError | sqlite3.Error) -> UserError:
    """What the machine refused where nobody had words of its own for it: a closed folder, no memory left."""
    if isinstance(error, sqlite3.Error):
        remedy = "free space, or choose another --cache"
        return UserError("the cache of answers cannot be read or written", got=error, remedy=remedy)
    if isinstance(error, MemoryError):
        return UserError("not enough memory", remedy="give the program more, or less to read")
    where = f"{error.filename}: " if error.filename is not None else ""
    return UserError(
        "the machine refused", got=f"{where}{error.strerror or error}", remedy="check the path and its rights"
    )


def first_line(error: BaseException, limit: int = 200) -> str:
    """Shorten an upstream exception to `Type: first line` for use as a `got` value."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:limit]


def near(name: str, known: Iterable[str]) -> str:
    """Near matches of a misspelt name first, else the first known names: the `expected` of a message."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
    return ("did you mean " + ", ".join(close) + "?") if close else "one of " + ", ".join(names[:8])
