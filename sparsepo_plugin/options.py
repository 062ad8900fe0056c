"""Loss options: a dataclass whose fields become command-line flags, config keys and README rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

from torch import nn

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.masks.ones import OnesMask
from sparsepo_plugin.types import Needs, ReferenceShape

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
      choices: accepted values, if limited.
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
class LossOptions:
    """Options every loss has; losses subclass it, add fields and override what they need.

    ``presets`` maps values of an option named ``preset``, where a loss has one, to other options' defaults.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    anchor: float = option(
        0.0,
        "weight of the mean token KL(reference || policy), which holds tokens that masks free",
        least=0.0,
        affects="training",
    )
    anchor_weight: str = option(
        "uniform",
        "tokens the anchor holds: all alike, or by max(0, 1 - reward mask)",
        choices=("uniform", "complement"),
        affects="training",
    )
    record: int = option(
        0,
        "evaluation pairs whose masks, log-ratios and KL per token go to tokens.jsonl",
        least=0,
        affects="nothing",
    )

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

    def validate(self) -> None:
        """Check every field against its declaration.

        Raises:
          UserError: a value outside its choices or below its least value.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            choices, least = field.metadata["choices"], field.metadata["least"]
            if choices and value not in choices:
                raise UserError(f"option {field.name}: got {value!r}, expected one of {', '.join(choices)}")
            if least is not None and value is not None and not value >= least:
                raise UserError(f"option {field.name}: got {value!r}, expected a number >= {least}")


def option_rows(options: type[LossOptions]) -> list[OptionRow]:
    """List the options of a loss in declaration order."""
    rows = []
    for field in dataclasses.fields(options):
        kind = float if field.default is None else type(field.default)
        rows.append(
            OptionRow(field.name, kind, field.default, field.metadata["choices"], field.metadata["help"])
        )
    return rows
