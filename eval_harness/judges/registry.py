"""Judges by name: one file, one decorator over a frozen dataclass whose fields are its options."""

import dataclasses
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from eval_harness.errors import UserError
from eval_harness.judges.templates import Template, load_template
from eval_harness.judges.types import PAIR, Judge
from eval_harness.run.registry import near

C = TypeVar("C", bound=type)
_JUDGES: dict[str, type] = {}


def register_judge(name: str) -> Callable[[C], C]:
    """Register a judge under a unique name; a duplicate raises ValueError naming both owners.

    The first field of the class is `template`, None where the judge reads none; the rest are its options.
    """

    def decorate(judge: C) -> C:
        if name in _JUDGES:
            raise ValueError(f"judge {name!r}: already {_JUDGES[name].__module__}, now {judge.__module__}")
        _JUDGES[name] = judge
        return judge

    return decorate


def judge_names() -> list[str]:
    """Names of all judges, sorted."""
    return sorted(_JUDGES)


def judge_options(name: str) -> dict[str, str]:
    """Option -> its default as text, `required` where there is none."""
    fields = [f for f in dataclasses.fields(_find(name)) if f.name != "template"]
    return {f.name: _default(f) for f in fields}


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return "required" if field.default_factory is dataclasses.MISSING else repr(field.default_factory())


def _find(name: str) -> type:
    if name not in _JUDGES:
        raise UserError(
            "unknown judge", got=name, expected=near(name, judge_names()), remedy="eval-harness ls --judges"
        )
    return _JUDGES[name]


def build_judge(name: str, options: Mapping[str, Any], template: Template | None = None) -> Judge:
    """Make a judge.

    Raises:
      UserError: unknown judge or option, a missing or wrong option, no template where one is needed.
    """
    judge = _find(name)
    known = judge_options(name)
    for key in options:
        if key not in known:
            raise UserError(
                f"judge {name}: unknown option", got=key, expected=near(str(key), sorted(known) or ["none"])
            )
    for key, default in known.items():
        if default == "required" and key not in options:
            raise UserError(f"judge {name}: missing option", got=sorted(options), expected=key)
    types = {field.name: field.type for field in dataclasses.fields(judge)}
    given = {key: _fitting(f"judge {name}: {key}", value, types[key]) for key, value in options.items()}
    built: Judge = judge(template=template, **given)
    return built


def _fitting(what: str, value: Any, wanted: Any) -> Any:
    """The value of an option in its type; what YAML read as a number may be a name. Raises UserError."""
    kinds = [typing.get_origin(kind) or kind for kind in typing.get_args(wanted) or (wanted,)]
    if typing.get_origin(wanted) is dict:
        kinds = [dict]
    if str in kinds and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    number = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, tuple(kinds)) and (bool in kinds or not isinstance(value, bool)):
        return value
    if float in kinds and number:
        return float(value)
    expected = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
    raise UserError(what, got=repr(value), expected=expected)


def read_judge(spec: str, given: Mapping[str, Any], template: str, kind: str = PAIR) -> Judge:
    """A judge from the command line: its name, or a YAML file with `judge`, `template` and its options.

    Args:
      spec: a judge's name, or a path ending in .yaml.
      given: options that go over the file's.
      template: name or path of the template where the file names none.
      kind: pair or rating.

    Raises:
      UserError: as `build_judge` and `load_template`; an unreadable file.
    """
    options: dict[str, Any] = {}
    name = spec
    if spec.endswith((".yaml", ".yml")):
        options = _read(Path(spec))
        name = str(options.pop("judge", ""))
        template = str(options.pop("template", template))
    return build_judge(name, {**options, **given}, load_template(template, kind) if template else None)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError("judge file", got=f"{path}: {error}", expected="YAML with judge: NAME") from error
    if not isinstance(raw, dict) or "judge" not in raw:
        raise UserError("judge file", got=path, expected="YAML with judge: NAME and its options")
    return {str(key): value for key, value in raw.items()}
