"""Scorers by name: one file, one decorator; a scorer's fields are its options."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from eval_harness.errors import UserError, near
from eval_harness.faithfulness.examples import Device, Scorer
from eval_harness.files.configs import parse_config
from eval_harness.models.identity import sha

S = TypeVar("S", bound=type[Scorer])
_SCORERS: dict[str, type[Scorer]] = {}


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
    if name not in _SCORERS:
        raise UserError(
            "unknown scorer",
            got=name,
            expected=near(name, scorer_names()),
            remedy="eval-harness ls --scorers",
        )
    return _SCORERS[name]


@dataclass(frozen=True)
class ScorerSpec:
    """A scorer as asked for: its name and options, not yet built."""

    name: str
    options: dict[str, Any]


def build_scorer(spec: ScorerSpec, run_on: Device) -> Scorer:
    """Build a scorer.

    Raises:
      UserError: an unknown scorer or option (near matches), a value of another type.
    """
    where = f"scorer {spec.name}"
    return parse_config(scorer_class(spec.name), spec.options, where, "option", run_on=run_on)


def scorer_lines() -> Sequence[str]:
    """Every scorer with its description, metrics and options with their defaults."""
    lines = []
    for name in scorer_names():
        cls = scorer_class(name)
        lines.append(f"{name}  {(cls.__doc__ or '').splitlines()[0]}")
        lines.append(f"  metrics  {', '.join(metric.name for metric in cls.metrics)}")
        fields = cls.model_fields.items()
        lines += [f"  option   {key}={field.default}" for key, field in fields if key != "run_on"]
    return lines


def digest(scorer: Scorer) -> str:
    """What makes two runs of a scorer comparable: name, options other than where files lie, model hashes.

    Returns:
      The first 16 hex digits of a sha256.
    """
    options = {key: value for key, value in scorer.options().items() if key not in scorer.paths}
    models = scorer.models()
    dtype = scorer.run_on.dtype if models else None
    text = json.dumps([scorer.name, options, models, dtype], sort_keys=True)
    return sha(text)[:16]
