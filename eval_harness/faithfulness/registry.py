"""Scorers by name: one file, one decorator; a scorer's dataclass fields are its options."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Device, Scorer
from eval_harness.models.identity import sha
from eval_harness.run.registry import near

S = TypeVar("S", bound=type[Scorer])
_SCORERS: dict[str, type[Scorer]] = {}
_WORDS = {str: "a text", int: "an integer", float: "a number", bool: "true or false"}


def register_scorer(name: str) -> Callable[[S], S]:
    """Register a scorer under a unique name; a duplicate raises ValueError naming both owners."""

    def decorate(cls: S) -> S:
        if name in _SCORERS:
            raise ValueError(f"scorer {name!r}: already {_SCORERS[name].__module__}, now {cls.__module__}")
        cls.name = name
        _SCORERS[name] = cls
        return cls

    return decorate


def scorer_names() -> list[str]:
    """Names of all registered scorers, sorted; importing the package `scorers` registers ours."""
    return sorted(_SCORERS)


def scorer_class(name: str) -> type[Scorer]:
    """Return the class; an unknown name raises UserError with near matches."""
    known = scorer_names()
    if name not in _SCORERS:
        raise UserError(
            "unknown scorer", got=name, expected=near(name, known), remedy="eval-harness ls --scorers"
        )
    return _SCORERS[name]


def option_fields(cls: type[Scorer]) -> dict[str, tuple[Any, object]]:
    """Option -> (type, default)."""
    hints = get_type_hints(cls)
    return {f.name: (hints[f.name], f.default) for f in dataclasses.fields(cls) if f.name != "run_on"}


@dataclass(frozen=True)
class ScorerSpec:
    """A scorer as asked for: its name and options, not yet built."""

    name: str
    options: dict[str, Any]


def build_scorer(wanted: ScorerSpec, run_on: Device) -> Scorer:
    """Build a scorer.

    Raises:
      UserError: an unknown scorer or option (near matches), a value of another type.
    """
    cls = scorer_class(wanted.name)
    fields = option_fields(cls)
    for key, value in wanted.options.items():
        if key not in fields:
            raise UserError(
                f"scorer {wanted.name}: unknown option",
                got=key,
                expected=near(key, sorted(fields)) if fields else "no options",
            )
        kind = fields[key][0]
        fits = isinstance(value, int | float if kind is float else kind)
        if not fits or (kind is not bool and isinstance(value, bool)):
            raise UserError(f"scorer {wanted.name}: option {key}", got=value, expected=_WORDS[kind])
    return cls(**wanted.options, run_on=run_on)


def digest(scorer: Scorer) -> str:
    """What makes two runs of a scorer comparable: name, options other than where files lie, model hashes.

    Returns:
      The first 16 hex digits of a sha256.
    """
    places = {"model", "weights", "url", "judge"}  # paths: their content is in models()
    options = {k: v for k, v in scorer.options().items() if k not in places}
    models = scorer.models()
    dtype = scorer.run_on.dtype if models else None
    text = json.dumps([scorer.name, options, models, dtype], sort_keys=True)
    return sha(text)[:16]
