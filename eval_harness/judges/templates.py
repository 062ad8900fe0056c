"""How a question is put to a language model and how its answer is read: versioned YAML."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from eval_harness.errors import UserError
from eval_harness.files.configs import AsTuple, Config, Text, config_names, parse_config, read_config
from eval_harness.judges.types import PAIR, UNPARSABLE, Answer, Cost, Judge, Kind, Question
from eval_harness.models.identity import sha
from eval_harness.models.thinking import Thinking

_PLACE = re.compile(r"\{(\w+)\}")
_PAIR_FIELDS = frozenset({"prompt", "first", "second"})
_REASONING = Thinking(strip=True)
_READER = 2  # of how answers are read; part of the digest, so that what was read otherwise is asked again
_CHARACTERS_PER_TOKEN = 4  # of English text, roughly; for cost estimates only
Unit = Annotated[float, Field(ge=0, le=1)]


def _ordered(scale: tuple[float, float]) -> tuple[float, float]:
    if not scale[0] < scale[1]:
        raise ValueError(scale)
    return scale


class Template(Config):
    """A template, as it stands in a YAML file.

    Exactly one of `labels` (answer -> value in [0, 1]) and `scale` (lowest and highest number, mapped to
    [0, 1]) is set. `pattern` finds the answer in what the judge writes, its one group holds it, the last
    match counts; None: the whole answer is the label, which allows log-probabilities of labels.
    """

    name: str
    version: int = Field(ge=1, description="a positive integer")
    kind: Kind
    title: Text = ""
    system: Text = ""
    user: Text
    labels: dict[Text, Unit] = Field(default_factory=dict, description="label: value, every value in [0, 1]")
    scale: Annotated[tuple[float, float], AsTuple, AfterValidator(_ordered)] | None = Field(
        None, description="[lowest, highest]"
    )
    pattern: Text | None = None
    max_tokens: int = Field(ge=1, description="a positive integer")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        where = f"judge template {self.name}"
        if bool(self.labels) == (self.scale is not None):
            raise UserError(where, got="labels and scale", expected="exactly one of the two")
        if self.pattern is not None:
            _check_pattern(self.pattern, f"{where}: pattern")
        if self.kind == PAIR and (self.fields != _PAIR_FIELDS or self.scale):
            raise UserError(
                f"{where}: a pair", got=sorted(self.fields), expected="{prompt}, {first}, {second} and labels"
            )
        return self

    @property
    def fields(self) -> frozenset[str]:
        """Names of the texts it shows."""
        return frozenset(_PLACE.findall(self.system + self.user)) - {"fence"}

    @property
    def digest(self) -> str:
        """sha256 of all that reaches the judge or reads its answer; the name does not."""
        shape = [self.kind, self.system, self.user, self.labels, self.scale, self.pattern, self.max_tokens]
        return sha(json.dumps([_READER, *shape], sort_keys=True))

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
        """The value of a judge's text, None where it cannot be read.

        What stands in a block of reasoning is no verdict, and a block that never ends is followed by none.
        """
        said = _REASONING.answer(text)
        if said is None:
            return None
        text, answer = said, said.strip()
        if self.pattern is not None:
            matches = re.findall(self.pattern, text, re.MULTILINE)
            if not matches:
                return None
            answer = matches[-1].strip()
        if self.scale is None:
            known = {label.lower(): value for label, value in self.labels.items()}
            return known.get(answer.strip(" .\"'*`[]()").lower())
        try:
            number = float(answer)
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


def _check_pattern(pattern: str, where: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(where, got=f"{pattern}: {error}", expected="a regular expression") from error
    if groups != 1:
        raise UserError(where, got=f"{groups} groups", expected="one group, around the answer")


def template_names() -> list[str]:
    """Names of the shipped templates."""
    return config_names("judges")


def load_template(name: str, kind: Kind | None = None) -> Template:
    """Load a shipped template by name or any by path (ending in .yaml or .yml).

    Raises:
      UserError: no such template, bad YAML, a wrong key or value, another kind than asked for.
    """
    template = parse_template(*read_config("judges", name, "judge template"))
    if kind is not None and template.kind != kind:
        raise UserError(
            f"judge template {template.name}", got=f"kind {template.kind}", expected=f"kind {kind}"
        )
    return template


def parse_template(raw: object, name: str) -> Template:
    """Turn parsed YAML into a Template. Raises UserError naming template and key."""
    return parse_config(Template, raw, f"judge template {name}", name=name)


class TemplateJudge(Judge):
    """A judge that is asked in words: it needs a template."""

    template: Template

    def cost(self, questions: Sequence[Question]) -> Cost:
        """Calls, and tokens by four characters each, the answers as long as the template allows."""
        shown = (self.template.messages(question.fields) for question in questions)
        characters = sum(len(message["content"]) for messages in shown for message in messages)
        written = len(questions) * self.template.max_tokens
        return Cost(len(questions), characters // _CHARACTERS_PER_TOKEN, written)
