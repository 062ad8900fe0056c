"""Presets: which tasks a suite runs and how, as versioned YAML of the suite's own type."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import Field

from eval_harness.errors import UserError, near
from eval_harness.files.configs import Config, Text, check_keys, config_names, parse_config, read_config
from eval_harness.models.generation.types import Sampling

Limit = Annotated[int | None, Field(ge=1, description="null or a positive integer")]


class Preset(Config, ABC):
    """What runner and command line need of a preset; a suite adds the keys of its YAML file as fields.

    `name` is the file's stem, `title` a line for `ls`. `version` rises with every change of content: scores
    of two versions are not compared.
    """

    name: str
    version: int = Field(ge=1, description="an integer of at least 1")
    suite: Text
    title: Text = ""

    @classmethod
    def parse(cls, raw: object, name: str) -> Self:
        """Build a preset of parsed YAML. Raises UserError naming preset and key."""
        return parse_config(cls, raw, f"preset {name}", name=name)

    @abstractmethod
    def tasks(self) -> Mapping[str, object]:
        """Its tasks by name, in file order."""

    @abstractmethod
    def task_lines(self) -> list[str]:
        """One line per task, for `ls --tasks`."""

    def selectable(self) -> Iterable[str]:
        """Names that --tasks takes."""
        return self.tasks()

    def select(self, tasks: list[str] | None, limit: int | None) -> Self:
        """Only the named tasks, at most `limit` documents of each.

        Raises:
          UserError: a name that the preset does not have, with near matches; a limit below 1.
        """
        if limit is not None and limit < 1:
            raise UserError("--limit", got=limit, expected="a positive integer")
        known = sorted(set(self.selectable()))
        for name in tasks or []:
            if name not in known:
                raise UserError(
                    "unknown task", got=name, expected=near(name, known), remedy="eval-harness ls --tasks"
                )
        return self.selected(tasks, limit)

    @abstractmethod
    def selected(self, tasks: list[str] | None, limit: int | None) -> Self:
        """The selection, of names and a limit that were checked."""


def smaller(*limits: int | None) -> int | None:
    """The smallest limit, None where there is none."""
    return min((n for n in limits if n is not None), default=None)


def preset_names(suite: str) -> list[str]:
    """Names of the shipped presets of one suite."""
    return [n for n in config_names("suites") if read_preset(n)[0].get("suite") == suite]


def read_preset(name: str) -> tuple[dict[str, Any], str]:
    """Keys and name of a preset of any suite. Raises UserError: no such preset, bad YAML, no mapping."""
    raw, stem = read_config("suites", name, "preset")
    if not isinstance(raw, dict):
        raise UserError(f"preset {stem}", got=type(raw).__name__, expected="a mapping of keys")
    return raw, stem


SAMPLING = tuple(field.name for field in dataclasses.fields(Sampling) if field.name != "seed")


def read_sampling(raw: object, where: str, start: Sampling | None = None) -> Sampling:
    """Sampling settings of a mapping, over others; numbers stay as they are written.

    Raises:
      UserError: no mapping, an unknown key, a value of another type or out of range. The seed is --seed's.
    """
    if not isinstance(raw, Mapping):
        raise UserError(where, got=raw, expected="a mapping of " + ", ".join(SAMPLING))
    check_keys(map(str, raw), SAMPLING, where)
    given: dict[str, Any] = dict(raw)
    for key, value in raw.items():
        if key in ("temperatures", "stop"):
            given[key] = tuple(value) if isinstance(value, list | tuple) else (value,)
            kind: Any = str if key == "stop" else int | float
            if not all(isinstance(v, kind) and not isinstance(v, bool) for v in given[key]):
                raise UserError(f"{where}: {key}", got=value, expected="a list of texts or numbers")
        elif isinstance(value, bool) or not isinstance(value, int | float if key == "top_p" else int):
            raise UserError(f"{where}: {key}", got=value, expected="a number")
    return dataclasses.replace(start or Sampling(), **given).checked()
