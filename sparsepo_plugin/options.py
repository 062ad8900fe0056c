"""Options: dataclasses whose fields become command-line flags, config keys and README rows."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

from torch import nn

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.masks.ones import OnesMask
from sparsepo_plugin.types import AnchorWeight, Needs, ReferenceShape

Affects = Literal["masks", "training", "nothing"]


def option(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    affects: Affects = "masks",
) -> Any:
    """Declare an option.

    Args:
      default: default value; its type (or ``float`` for None) is the flag's type.
      text: one line for --help and the README.
      choices: accepted values, where they are not the field's own ``Literal``.
      least: smallest accepted number, if limited.
      affects: "masks": what a mask is, so that a saved mask module is bound to it; "training": only how it
        and the policy are trained; "nothing": no number of the training.
    """
    metadata = {"help": text, "choices": choices, "least": least, "affects": affects}
    return dataclasses.field(default=default, metadata=metadata)


class OptionRow(NamedTuple):
    """One option as shown to users."""

    name: str
    kind: type
    default: Any
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Options:
    """A set of options.

    ``presets`` maps values of an option named ``preset``, where there is one, to other options' defaults.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def build(cls, given: Mapping[str, Any]) -> Self:
        """Make options: defaults < preset < given; and check them.

        Raises:
          UserError: a value outside its choices or below its least value, or options that contradict.
        """
        preset = cls.presets.get(given.get("preset", ""), {})
        options = cls(**{**preset, **given})
        options.validate()
        return options

    def validate(self) -> None:
        """Check every field against its declaration.

        Raises:
          UserError: a value outside its choices or below its least value.
        """
        for row, field in zip(option_rows(type(self)), dataclasses.fields(self)):
            value, least = getattr(self, row.name), field.metadata["least"]
            if row.choices and value not in row.choices:
                raise UserError(f"option {row.name}: got {value!r}, expected one of {', '.join(row.choices)}")
            if least is not None and value is not None and not value >= least:
                raise UserError(f"option {row.name}: got {value!r}, expected a number >= {least}")

    def idle(self) -> dict[str, str]:
        """Options that do nothing as the others are, each with what makes it idle."""
        return {}

    def check_effects(self) -> None:
        """Refuse options that are set and do nothing. A saved run's options may: its command line may not.

        Raises:
          UserError: the first of them.
        """
        preset = self.presets.get(getattr(self, "preset", ""), {})
        rows = {row.name: preset.get(row.name, row.default) for row in option_rows(type(self))}
        for name, reason in self.idle().items():
            if (value := getattr(self, name)) != rows[name]:
                raise UserError(
                    f"option {name}: got {value!r}, which does nothing with {reason}; expected another "
                    f"{reason.split()[0]}, or no {name}"
                )


@dataclass(frozen=True)
class MaskOptions(Options):
    """Options every mask source has; sources subclass it and add their own."""

    masks: Literal["common", "independent"] = option(
        "common", "one mask for both terms, or two independent modules"
    )
    mask_on: Literal["both", "reward", "kl"] = option(
        "both", "the masked term; the other keeps weight 1 on every token"
    )


@dataclass(frozen=True)
class LossOptions(Options):
    """Options every loss has; losses subclass it, add fields and override what they need.

    ``earlier`` maps options to the defaults of versions before this one, where those were others.
    """

    earlier: ClassVar[Mapping[str, Any]] = {}

    anchor: float = option(
        0.0,
        "weight of the mean token KL(reference || policy), which holds tokens that masks free",
        least=0.0,
        affects="training",
    )
    anchor_weight: AnchorWeight = option(
        "uniform", "tokens the anchor holds: all alike, or by max(0, 1 - reward mask)", affects="training"
    )
    record: int = option(
        0,
        "evaluation pairs whose masks, log-ratios and KL per token go to tokens.jsonl",
        least=0,
        affects="nothing",
    )

    def idle(self) -> dict[str, str]:
        """The anchor's weight without an anchor."""
        return {} if self.anchor else {"anchor_weight": "anchor 0"}

    def variant(self) -> str | None:
        """Which form of the method these options are, in a line for users; None where a loss has one form."""
        return None

    def as_begun(self, recorded: Mapping[str, Any], given: Container[str]) -> Self:
        """These options for a run that an earlier version began: with its defaults where the user names none.

        Args:
          recorded: options that the run wrote down.
          given: names of the options that the user gives now.
        """
        kept = {
            name: value
            for name, value in self.earlier.items()
            if name not in given and recorded.get(name) == value
        }
        return dataclasses.replace(self, **kept)

    def lines(self, loss: str, asked: LossOptions) -> list[str]:
        """Lines for users: which form of the method is trained, and where that is not what was asked for.

        Args:
          loss: its name.
          asked: the options before ``as_begun``.
        """
        form = self.variant()
        found = [] if form is None else [f"{loss}: {form}"]
        for name in self.earlier:
            was, now = getattr(self, name), getattr(asked, name)
            if was != now:
                found.append(
                    f"{loss}: {name} stays {was!r}, as this run was begun by an earlier version (now {now!r} "
                    f"where it is not named)"
                )
        return found

    @property
    def learned(self) -> bool:
        """Whether there is a mask module to train."""
        return False

    def needs(self) -> Needs:
        """Work the adapter must do for this loss with these options."""
        return Needs(token_kl=self.anchor > 0)

    def build_masks(self, shape: ReferenceShape, seed: int) -> nn.Module:
        """Build the mask source: a module from ReferenceState to Masks.

        Args:
          shape: sizes of the reference model.
          seed: seed of the module's initialisation.
        """
        return OnesMask(kl=self.masks_kl())

    def masks_kl(self) -> bool:
        """Whether the loss has a KL term for a KL mask to weigh."""
        return False

    def mask_learning_rate(self, policy_learning_rate: float) -> float:
        """Learning rate of the mask module's parameters."""
        return policy_learning_rate

    def mask_decay(self) -> float:
        """Weight decay of the mask module's weights (never of its biases and norms)."""
        return 0.0


def option_rows(options: type[Options]) -> list[OptionRow]:
    """List the options of a class in declaration order."""
    rows, annotations = [], typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        kind = float if field.default is None else type(field.default)
        literal = typing.get_origin(annotations[field.name]) is Literal
        choices = typing.get_args(annotations[field.name]) if literal else field.metadata["choices"]
        rows.append(OptionRow(field.name, kind, field.default, choices, field.metadata["help"]))
    return rows
