"""Versions of the other trainers that these adapters are tested with."""

from __future__ import annotations

from importlib.metadata import version

from sparsepo_plugin.errors import UserError

# The oldest and the newest, as ``make test-axolotl`` and ``make test-axolotl-newest`` install them.
TESTED = {"axolotl": ((0, 19), (0, 21)), "trl": ((1, 9), (1, 16))}


def untested(name: str, installed: str | None = None) -> str | None:
    """What to say of a version that is newer than those tested; None if it is not.

    Args:
      name: of the package, one of TESTED.
      installed: its version; by default the one that is installed.

    Raises:
      UserError: an older version, which lacks what the adapter overrides.
    """
    installed = version(name) if installed is None else installed
    number = tuple(int(part) for part in installed.split(".")[:2])
    oldest, newest = TESTED[name]
    if number < oldest:
        expected = ".".join(map(str, oldest))
        raise UserError(f"{name}: got version {installed}, expected {expected} or later; update it")
    if number <= newest:
        return None
    known = ".".join(map(str, newest))
    return f"warning: {name} {installed} is newer than {known}, the newest that this is tested with"
