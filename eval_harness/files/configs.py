"""Configuration in YAML (presets, gates, templates, options): a mistake is one line that names its key."""

import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from eval_harness.errors import UserError, near

Kind = Literal["suites", "gates", "judges"]
Noun = Literal["key", "option"]  # what messages call a field
# A text; what YAML read as a number may be a name.
Text = Annotated[str, Field(strict=False)]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


AsTuple = BeforeValidator(_as_tuple)
Names = Annotated[tuple[str, ...], AsTuple]


class Config(BaseModel):
    """A file's or an option list's content: unknown keys are errors, values keep their YAML types.

    A field's description says what is accepted: it is the `expected` of the message.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, coerce_numbers_to_str=True, allow_inf_nan=False
    )


C = TypeVar("C", bound=BaseModel)
_TAG = "tag:yaml.org,2002:"


def config_folder(kind: Kind) -> Path:
    """Folder of shipped files of one kind: inside an installed wheel, else configs/eval of the checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_configs"
    return (packaged if packaged.is_dir() else package.parent / "configs" / "eval") / kind


def config_names(kind: Kind) -> list[str]:
    """Names of the shipped files of one kind."""
    return sorted(path.stem for path in config_folder(kind).glob("*.yaml"))


def read_config(kind: Kind, name: str, what: str) -> tuple[Any, str]:
    """Parsed YAML and stem of a shipped file by name, or of any by path (ending in .yaml or .yml).

    Raises:
      UserError: no such file (near matches), bad YAML; the message begins with `what`.
    """
    by_path = name.endswith((".yaml", ".yml"))
    path = Path(name) if by_path else config_folder(kind) / f"{name}.yaml"
    if not path.is_file():
        shipped = near(name, config_names(kind))
        raise UserError(f"no such {what}", got=name, expected=f"a YAML file, or {shipped}")
    return read_yaml(path, what), path.stem


def read_yaml(path: Path, what: str) -> Any:
    """Parsed YAML; a key given twice is an error: an entry must not vanish behind its namesake."""
    import yaml

    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{what} is not valid YAML", got=f"{path}: {error}", expected="YAML") from error


def parse_yaml(text: str) -> Any:
    """Parsed YAML with unique keys, in which a date or a time of day stays the text that it is."""
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader without YAML 1.1's dates and numbers to the base 60."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key!r} twice", node.start_mark)
            return super().construct_mapping(node, deep)

        def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
            tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
            sixty = isinstance(value, str) and ":" in value and tag in (f"{_TAG}int", f"{_TAG}float")
            return f"{_TAG}str" if sixty or tag == f"{_TAG}timestamp" else tag

    return yaml.load(text, Loader=Loader)


def parse_config(cls: type[C], raw: object, where: str, noun: Noun = "key", **fixed: Any) -> C:
    """Build a configuration from parsed YAML; `fixed` fields come from elsewhere and are no keys.

    Raises:
      UserError: no mapping, an unknown key (near matches), a missing one, a value that does not fit.
    """
    if not isinstance(raw, Mapping):
        raise UserError(where, got=type(raw).__name__, expected="a mapping of keys")
    given = {str(key): value for key, value in raw.items()}
    check_keys(given, set(cls.model_fields) - set(fixed), where, noun)
    try:
        return cls.model_validate({**given, **fixed}, context={"where": where})
    except ValidationError as error:
        raise _one_line(error, cls, given, where, noun) from error


def where_of(info: ValidationInfo) -> str:
    """What a validator's message begins with."""
    return str((info.context or {}).get("where", "configuration"))


def check_keys(raw: Iterable[str], known: Iterable[str], where: str, noun: Noun = "key") -> None:
    """Raise UserError for a key that is not known, with near matches."""
    if unknown := sorted(set(raw) - set(known)):
        raise UserError(
            f"{where}: unknown {noun}", got=unknown[0], expected=near(unknown[0], sorted(known) or ["none"])
        )


def _one_line(
    error: ValidationError, cls: type[BaseModel], raw: Mapping[str, Any], where: str, noun: Noun
) -> UserError:
    """The first mistake: what, got, expected."""
    first = error.errors(include_url=False)[0]
    kind, parts = first["type"], list(first["loc"])
    fields: dict[str, Any] = dict(cls.model_fields)
    path: list[str] = []
    value: Any = raw
    description: str | None = None
    for part in parts:
        value = value[part] if isinstance(value, Mapping) and part in value else value
        if isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
            value = value[part]
            part = value.get("name", part) if isinstance(value, Mapping) else part
        elif part in fields:
            description = fields[part].description or description
            fields = _fields_of(fields[part].annotation)
        path.append(str(part))
    parent = ", ".join([where, *filter(None, [" ".join(path[:-1])])])
    if kind == "missing":
        return UserError(f"{parent}: missing {noun}", got=sorted(map(str, value)), expected=path[-1])
    if kind == "extra_forbidden":
        return UserError(f"{parent}: unknown {noun}", got=path[-1], expected=near(path[-1], sorted(fields)))
    expected = description or _EXPECTED.get(kind) or str(first["msg"]).removeprefix("Input should be ")
    if kind == "literal_error":
        expected = " or ".join(re.findall("'([^']*)'", first["ctx"]["expected"])) or expected
    what = " ".join(path if noun == "key" else [noun, *path])
    return UserError(f"{where}: {what}", got=repr(first["input"])[:200], expected=expected)


def _fields_of(annotation: Any) -> dict[str, Any]:
    """Fields of the configuration that an annotation holds, none where it holds none."""
    for part in (annotation, *typing.get_args(annotation)):
        if (
            isinstance(part, type)
            and not isinstance(part, types.GenericAlias)
            and issubclass(part, BaseModel)
        ):
            return dict(part.model_fields)
    return {}


_EXPECTED = {
    "string_type": "a text",
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping of keys",
    "tuple_type": "a list",
    "model_type": "a mapping of keys",
}


def key_values(items: Iterable[str], flag: str) -> dict[str, Any]:
    """KEY=VALUE strings of a command-line flag to a dict, values read as YAML. Raises UserError naming it."""
    import yaml

    values = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UserError(flag, got=item, expected="KEY=VALUE")
        try:
            values[key] = parse_yaml(value)
        except yaml.YAMLError as error:
            raise UserError(flag, got=item, expected="KEY=VALUE, the value in YAML") from error
    return values
