"""The two training arguments that SparsePO adds, and the options they stand for; imports no trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsepo_plugin import registry
from sparsepo_plugin.errors import UserError, unknown
from sparsepo_plugin.options import LossOptions, OptionRow, option_rows


@dataclass
class PreferenceArguments:
    """Mixed into TRL's DPOConfig here and into Axolotl's own training arguments there.

    Attributes:
      preference_loss: name of a registered loss.
      loss_options: options of that loss that differ from their defaults.
    """

    preference_loss: str = field(default="sparsepo", metadata={"help": "registered loss"})
    loss_options: dict[str, Any] | str = field(default_factory=dict, metadata={"help": "options of the loss"})


def build_options(loss: registry.Loss, given: Mapping[str, Any] | str) -> LossOptions:
    """Check the given options' names and types, then everything the loss itself checks.

    Raises:
      UserError: unknown option, value of the wrong type or outside its range, or options that contradict.
    """
    if isinstance(given, str):
        raise UserError(f"loss_options: got {given!r}, expected options as {{'name': value}}")
    rows = {row.name: row for row in option_rows(loss.options)}
    for name, value in given.items():
        if name not in rows:
            raise unknown(f"option of {loss.name}", name, rows)
        _check_type(rows[name], value)
    options = loss.options.build({name: _convert(rows[name], value) for name, value in given.items()})
    options.check_effects()
    return options


def _check_type(row: OptionRow, value: Any) -> None:
    if value is None and row.default is None:
        return
    # A bool is an int to Python; nobody means it as a number.
    accepted = {float: (int, float), int: (int,), str: (str,), bool: (bool,)}[row.kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and row.kind is not bool):
        raise UserError(
            f"option {row.name}: got {value!r} ({type(value).__name__}), expected {_expected(row)}"
        )


def _expected(row: OptionRow) -> str:
    if row.choices:
        return f"one of {', '.join(row.choices)}"
    return {float: "a number", int: "an integer", str: "text", bool: "true or false"}[row.kind]


def _convert(row: OptionRow, value: Any) -> Any:
    return float(value) if row.kind is float and value is not None else value
