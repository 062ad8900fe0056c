"""How a question is put to a language model and how its answer is read: versioned YAML."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.judges.types import PAIR, RATING, UNPARSABLE, Answer
from eval_harness.models.identity import sha
from eval_harness.reasoning.preset import check_keys, preset_folder
from eval_harness.run.registry import near

_KEYS = {"version", "kind", "title", "system", "user", "labels", "scale", "pattern", "max_tokens"}
_PLACE = re.compile(r"\{(\w+)\}")
_PAIR_FIELDS = frozenset({"prompt", "first", "second"})


@dataclass(frozen=True)
class Template:
    """A template.

    Exactly one of `labels` (answer -> value in [0, 1]) and `scale` (lowest and highest number, mapped to
    [0, 1]) is set. `pattern` finds the answer in what the judge writes, its one group holds it, the last
    match counts; None: the whole answer is the label, which allows log-probabilities of labels.
    """

    name: str
    version: int
    kind: str
    system: str
    user: str
    labels: dict[str, float]
    scale: tuple[float, float] | None
    pattern: str | None
    max_tokens: int

    @property
    def fields(self) -> frozenset[str]:
        """Names of the texts it shows."""
        return frozenset(_PLACE.findall(self.system + self.user)) - {"fence"}

    @property
    def digest(self) -> str:
        """sha256 of all that reaches the judge or reads its answer; the name does not."""
        parts = [self.kind, self.system, self.user, self.labels, self.scale, self.pattern, self.max_tokens]
        return sha(json.dumps(parts, sort_keys=True))

    def messages(self, fields: Mapping[str, str]) -> list[dict[str, str]]:
        """The chat messages. A text is put in as it is: nothing in it is replaced or can close its fence."""
        if missing := sorted(self.fields - set(fields)):
            raise UserError(
                f"judge template {self.name}", got=f"no {missing[0]}", expected=", ".join(sorted(fields))
            )
        texts = {**fields, "fence": fence(fields)}
        turns = (("system", self.system), ("user", self.user))
        return [
            {"role": role, "content": _PLACE.sub(lambda m: texts.get(m[1], m[0]), text).strip()}
            for role, text in turns
            if text.strip()
        ]

    def read(self, text: str) -> float | None:
        """The value of a judge's text, None where it cannot be read."""
        found = text.strip()
        if self.pattern is not None:
            matches = re.findall(self.pattern, text, re.MULTILINE)
            if not matches:
                return None
            found = matches[-1].strip()
        if self.scale is None:
            known = {label.lower(): value for label, value in self.labels.items()}
            return known.get(found.strip(" .\"'*`[]()").lower())
        try:
            number = float(found)
        except ValueError:
            return None
        low, high = self.scale
        return (number - low) / (high - low) if low <= number <= high else None

    def answer(self, text: str, prompt_tokens: int = 0, answer_tokens: int = 0) -> Answer:
        """Read a judge's text into an Answer; what cannot be read is UNPARSABLE, never a value."""
        value = self.read(text)
        if value is None:
            return Answer(None, UNPARSABLE, text, prompt_tokens, answer_tokens)
        return Answer(value, text=text, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens)


def fence(fields: Mapping[str, str]) -> str:
    """A mark that none of the texts holds, equal for equal texts: eight hexadecimal digits."""
    everything, turn = json.dumps(dict(fields), sort_keys=True), 0
    while (mark := sha(f"{turn}{everything}")[:8]) in everything:
        turn += 1
    return mark


def template_folder() -> Path:
    """Folder of the shipped templates."""
    return preset_folder().parent / "judges"


def template_names(kind: str | None = None) -> list[str]:
    """Names of the shipped templates, optionally of one kind."""
    names = sorted(path.stem for path in template_folder().glob("*.yaml"))
    return [name for name in names if kind is None or load_template(name).kind == kind]


def load_template(name: str, kind: str | None = None) -> Template:
    """Load a shipped template by name or any by path (ending in .yaml).

    Raises:
      UserError: no such template, bad YAML, a wrong key or value, another kind than asked for.
    """
    import yaml

    path = Path(name) if name.endswith(".yaml") else template_folder() / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in template_folder().glob("*.yaml"))
        raise UserError("no such judge template", got=name, expected=near(name, known))
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError("judge template is not valid YAML", got=f"{path.name}: {error}") from error
    template = parse_template(raw, path.stem)
    if kind is not None and template.kind != kind:
        raise UserError(f"judge template {path.stem}", got=f"kind {template.kind}", expected=f"kind {kind}")
    return template


def parse_template(raw: object, name: str) -> Template:
    """Turn parsed YAML into a Template; strict about keys and values. Raises UserError naming both."""
    where = f"judge template {name}"
    if not isinstance(raw, dict):
        raise UserError(where, got=type(raw).__name__, expected="a mapping of keys")
    check_keys(raw, _KEYS, {"version", "kind", "user", "max_tokens"}, where)
    if raw["kind"] not in (PAIR, RATING):
        raise UserError(f"{where}: kind", got=raw["kind"], expected=f"{PAIR} or {RATING}")
    if ("labels" in raw) == ("scale" in raw):
        raise UserError(where, got="labels and scale", expected="exactly one of the two")
    for key in ("version", "max_tokens"):
        if isinstance(raw[key], bool) or not isinstance(raw[key], int) or raw[key] < 1:
            raise UserError(f"{where}: {key}", got=raw[key], expected="a positive integer")
    template = Template(
        name,
        raw["version"],
        raw["kind"],
        str(raw.get("system", "")),
        str(raw["user"]),
        _labels(raw.get("labels", {}), where),
        _scale(raw["scale"], where) if "scale" in raw else None,
        _pattern(raw.get("pattern"), where),
        raw["max_tokens"],
    )
    if template.kind == PAIR and (template.fields != _PAIR_FIELDS or template.scale):
        raise UserError(
            f"{where}: a pair", got=sorted(template.fields), expected="{prompt}, {first}, {second} and labels"
        )
    return template


def _labels(raw: object, where: str) -> dict[str, float]:
    if not isinstance(raw, dict) or not all(_unit(value) for value in raw.values()):
        raise UserError(f"{where}: labels", got=raw, expected="label: value, every value in [0, 1]")
    return {str(label): float(value) for label, value in raw.items()}


def _unit(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _scale(raw: object, where: str) -> tuple[float, float]:
    numbers = isinstance(raw, Sequence) and len(raw) == 2 and all(isinstance(v, int | float) for v in raw)
    if not numbers or not raw[0] < raw[1]:  # type: ignore[index]
        raise UserError(f"{where}: scale", got=raw, expected="[lowest, highest]")
    return float(raw[0]), float(raw[1])  # type: ignore[index]


def _pattern(raw: Any, where: str) -> str | None:
    if raw is None:
        return None
    try:
        groups = re.compile(str(raw)).groups
    except re.error as error:
        raise UserError(
            f"{where}: pattern", got=f"{raw}: {error}", expected="a regular expression"
        ) from error
    if groups != 1:
        raise UserError(f"{where}: pattern", got=f"{groups} groups", expected="one group, around the answer")
    return str(raw)
