"""Judges by name: one file, one decorator over a class whose fields are its options."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from eval_harness.errors import UserError, near
from eval_harness.files.configs import parse_config, read_yaml
from eval_harness.judges.templates import Template, TemplateJudge, load_template
from eval_harness.judges.types import PAIR, Judge, Kind

C = TypeVar("C", bound=type[Judge])
_JUDGES: dict[str, type[Judge]] = {}


def register_judge(name: str) -> Callable[[C], C]:
    """Register a judge under a unique name; a duplicate raises ValueError naming both owners."""

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
    fields = {key: field for key, field in _judge_class(name).model_fields.items() if key != "template"}
    return {
        key: "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        for key, field in fields.items()
    }


def _judge_class(name: str) -> type[Judge]:
    if name not in _JUDGES:
        raise UserError(
            "unknown judge", got=name, expected=near(name, judge_names()), remedy="eval-harness ls --judges"
        )
    return _JUDGES[name]


def build_judge(name: str, options: Mapping[str, Any], template: Template | None = None) -> Judge:
    """Make a judge; one without words ignores the template.

    Raises:
      UserError: unknown judge or option, a missing or wrong option, no template where one is needed.
    """
    cls, where = _judge_class(name), f"judge {name}"
    if not issubclass(cls, TemplateJudge):
        return parse_config(cls, options, where, "option")
    if template is None:
        raise UserError(f"judge {name}", got="no template", expected="--judge-template NAME")
    return parse_config(cls, options, where, "option", template=template)


def read_judge(spec: str, given: Mapping[str, Any], template: str, kind: Kind = PAIR) -> Judge:
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
        raw = read_yaml(Path(spec), "judge file")
        if not isinstance(raw, dict) or "judge" not in raw:
            raise UserError("judge file", got=spec, expected="YAML with judge: NAME and its options")
        options = {str(key): value for key, value in raw.items()}
        name = str(options.pop("judge"))
        template = str(options.pop("template", template))
    return build_judge(name, {**options, **given}, load_template(template, kind) if template else None)
