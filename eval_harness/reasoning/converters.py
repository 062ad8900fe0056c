"""Row converters: other layouts of public data into the columns a shipped task expects; pure functions."""

from collections.abc import Callable, Collection

from eval_harness.errors import UserError, near
from eval_harness.files.rows import Row

CONVERTERS: dict[str, Callable[[Row], Row]] = {}


def converter(function: Callable[[Row], Row]) -> Callable[[Row], Row]:
    """Register under the function's name."""
    CONVERTERS[function.__name__] = function
    return function


def get_converter(name: str) -> Callable[[Row], Row]:
    """Return a converter; an unknown name raises UserError with near matches."""
    if name not in CONVERTERS:
        raise UserError("unknown row converter", got=name, expected=near(name, sorted(CONVERTERS)))
    return CONVERTERS[name]


def described(name: str) -> str:
    """What a converter reads and makes, in a line."""
    return (get_converter(name).__doc__ or "").strip()


def converter_for(row: Row, columns: Collection[str]) -> str:
    """Words on the converters for a row that lacks columns: the one that makes them, or all there are."""
    for name, function in CONVERTERS.items():
        try:
            made = function(row)
        except (KeyError, TypeError):
            continue
        if all(column in made for column in columns):
            return f"write convert: {name} ({described(name)})"
    return f"name a row converter: {', '.join(CONVERTERS)}"


@converter
def arc_original(row: Row) -> Row:
    """AI2's own ARC layout, {question: {stem, choices: [{text, label}]}}, to allenai/ai2_arc's columns."""
    choices = row["question"]["choices"]
    return {
        "id": row["id"],
        "question": row["question"]["stem"],
        "choices": {"text": [c["text"] for c in choices], "label": [c["label"] for c in choices]},
        "answerKey": row["answerKey"],
    }


@converter
def musr_choices(row: Row) -> Row:
    """MuSR with `choices` as a list, to the hub's column: the text of a Python list."""
    return {**row, "choices": row["choices"] if isinstance(row["choices"], str) else repr(row["choices"])}
