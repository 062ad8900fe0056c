"""Configuration files: strict YAML whose keys are the command line's flags, dotted or nested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from sparsepo_plugin.errors import UserError, unknown

# Never written to disk by dump(): a key that unlocks an account.
_SECRET_KEYS = frozenset({"logger.wandb.key"})


def spelt_out(words: Iterable[str], switches: Mapping[str, str | None]) -> list[str]:
    """A command line in which ``--switch true`` and ``--switch=false`` are as argparse takes them.

    Args:
      words: of the command line.
      switches: flags without a value, each with the flag that takes it back; None where leaving it out does.
    """
    made: list[str] = []
    for word in words:
        flag, equals, value = word.partition("=")
        spoken = value if equals else word
        if spoken.lower() not in ("true", "false"):
            made.append(word)
            continue
        switch = flag if equals else next(reversed(made), "")
        if switch not in switches:
            made.append(word)
            continue
        if not equals:
            made.pop()
        chosen = switch if spoken.lower() == "true" else switches[switch]
        made += [chosen] if chosen else []
    return made


def read_flags(path: str | Path, known: Mapping[str, bool], without: tuple[str, ...] = ()) -> list[str]:
    """Turn a configuration file into command-line flags, so that both go through one parser.

    Args:
      path: YAML file. Keys are flags without the dashes, nested (``model: {beta: 0.1}``) or dotted.
      known: every accepted key, and whether it is a switch (a flag without value).
      without: beginnings of keys that are left out.

    Returns:
      Flags in file order; null values are left out, a false switch becomes its ``--no-`` form.

    Raises:
      UserError: file missing or not YAML, unknown key (near matches named), or a switch that is not a bool.
    """
    flags: list[str] = []
    for key, value in flatten(read_tree(path)):
        if key not in known:
            raise unknown(f"key in {path}", key, known)
        if value is None or key.startswith(without):
            continue
        if known[key] and not isinstance(value, bool):
            raise UserError(f"key {key} in {path}: got {value!r}, expected true or false")
        if known[key]:
            flags.append(f"--{key}" if value else f"--no-{key}")
        else:
            flags += [f"--{key}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return flags


def read_flat(path: str | Path) -> dict[str, Any]:
    """Read a configuration file with dotted keys.

    Raises:
      UserError: file missing or not a YAML mapping.
    """
    return dict(flatten(read_tree(path)))


def dump(arguments: SimpleNamespace) -> str:
    """Write effective arguments as YAML that ``read_flags`` accepts; secrets become null."""
    header = "# Effective configuration; run it again with: sparsepo train --config FILE\n"
    content = _plain(arguments, "")
    content.pop("config", None)  # its flags are all here already
    content.pop("overwrite", None)  # meant once, by whoever typed it
    return header + yaml.safe_dump(content, sort_keys=True, allow_unicode=True)


def _plain(value: Any, key: str) -> Any:
    if isinstance(value, SimpleNamespace):
        items = vars(value).items()
        return {name: _plain(item, f"{key}.{name}" if key else name) for name, item in items}
    if key in _SECRET_KEYS:
        return None
    if isinstance(value, float) and value == float("inf"):
        return -1  # upstream's own spelling of "never" for step counts
    return list(value) if isinstance(value, tuple) else value


def read_tree(path: str | Path) -> dict[str, Any]:
    """Read a configuration file as it is nested.

    Raises:
      UserError: file missing or not a YAML mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read configuration {path}: {error.strerror}; expected a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"configuration {path} is not YAML: {reason}") from None
    if not isinstance(content, dict):
        raise UserError(f"configuration {path}: got {type(content).__name__}, expected a mapping of flags")
    return content


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested mapping."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            yield name, value
