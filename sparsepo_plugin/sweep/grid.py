"""The grid file: losses x betas x options x seeds over one base configuration."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sparsepo_plugin import config, registry
from sparsepo_plugin.errors import UserError, unknown
from sparsepo_plugin.options import option_rows

_KEYS = ("base", "losses", "betas", "seeds", "options")
_NAME_LENGTH = 60


class Point(NamedTuple):
    """One run of the grid."""

    loss: str
    beta: float
    options: dict[str, Any]
    seed: int

    def flags(self) -> list[str]:
        """Its flags, which come after those of the base."""
        values = {"loss": self.loss, "model.beta": self.beta, "train.seed": self.seed}
        values |= {f"{self.loss}.{key}": value for key, value in self.options.items()}
        return [word for key, value in values.items() for word in (f"--{key}", str(value))]

    def described(self) -> str:
        """Its options as text, empty where they are the defaults."""
        return " ".join(f"{key}={value}" for key, value in self.options.items())

    def settings(self) -> dict[str, str]:
        """What it is, by name, each as a word of a folder's name."""
        own = {"loss": self.loss, "beta": f"beta{self.beta:g}", "seed": f"seed{self.seed}"}
        return own | {key: f"{key}={value}" for key, value in self.options.items()}

    def name(self, varying: Collection[str]) -> str:
        """A name for a folder; not unique, because it is cut.

        Args:
          varying: the settings that tell the points apart.
        """
        words = [word for key, word in self.settings().items() if key in varying] or [self.loss]
        return re.sub(r"[^\w.=+-]+", "_", "-".join(words))[:_NAME_LENGTH]


def varying(points: Sequence[Point]) -> set[str]:
    """Names of the settings in which points differ."""
    settings = [point.settings() for point in points]
    return {key for each in settings for key in each if len({one.get(key) for one in settings}) > 1}


class Grid(NamedTuple):
    """Base flags as YAML text, and the points in the order in which they run."""

    base: str
    points: list[Point]


def read(path: Path) -> Grid:
    """Read a grid file strictly.

    Raises:
      UserError: file missing or no YAML, unknown key, empty or malformed list, unknown loss or option.
    """
    content = config.read_tree(path)
    for key in content:
        if key not in _KEYS:
            raise unknown(f"key in {path}", str(key), _KEYS)
    losses = _list(content, path, "losses", str, "names of losses")
    for loss in losses:
        registry.get(loss)
    betas = _list(content, path, "betas", (int, float), "numbers > 0")
    if any(not beta > 0 for beta in betas):
        raise UserError(f"{path}, key betas: got {betas}, expected numbers > 0")
    seeds = _list({"seeds": [0], **content}, path, "seeds", int, "whole numbers")
    options = _options(content.get("options") or {}, path, losses)
    # Seeds outermost: after the first round every configuration has a result.
    points = [
        Point(loss, float(beta), chosen, seed)
        for seed, loss, beta in itertools.product(seeds, losses, betas)
        for chosen in options[loss]
    ]
    return Grid(_base(content.get("base"), path), points)


def _list(content: dict[str, Any], path: Path, key: str, kind: Any, wanted: str) -> list[Any]:
    value = content.get(key)
    good = isinstance(value, list) and value
    if not good or any(not isinstance(item, kind) or isinstance(item, bool) for item in value or ()):
        raise UserError(f"{path}, key {key}: got {value!r}, expected a list of {wanted}, at least one")
    if len(set(value or ())) < len(value or ()):
        raise UserError(f"{path}, key {key}: got {value!r}, expected every entry once")
    return list(value or ())


def _options(given: Any, path: Path, losses: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Sets of options by loss; a loss without any runs once with its defaults."""
    if not isinstance(given, Mapping):
        raise UserError(f"{path}, key options: got {given!r}, expected a mapping from losses to lists")
    for loss, sets in given.items():
        if loss not in losses:
            raise unknown(f"loss in {path}, key options", str(loss), losses)
        if not isinstance(sets, list) or not sets or any(not isinstance(item, dict) for item in sets):
            raise UserError(
                f"{path}, key options.{loss}: got {sets!r}, expected a list of mappings from option to value"
            )
        if any(item in sets[:number] for number, item in enumerate(sets)):
            raise UserError(f"{path}, key options.{loss}: got {sets!r}, expected every set of options once")
        known = [row.name for row in option_rows(registry.get(loss).options)]
        for key in (key for item in sets for key in item):
            if key not in known:
                raise unknown(f"option of {loss} in {path}", str(key), known)
    return {loss: list(given.get(loss, [{}])) for loss in losses}


def _base(given: Any, path: Path) -> str:
    """The base as YAML: written out in the grid file, or the name of a configuration file."""
    if isinstance(given, str):
        return yaml.safe_dump(config.read_tree(given), allow_unicode=True)
    if not isinstance(given, dict) or not given:
        raise UserError(
            f"{path}, key base: got {given!r}, expected the flags of every run, or the name of their file"
        )
    return yaml.safe_dump(given, allow_unicode=True)
