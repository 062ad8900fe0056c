"""Training arguments: TRL's own, plus the name of a registered loss and its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trl import DPOConfig

from sparsepo_plugin.adapters.trl.arguments import PreferenceArguments


@dataclass
class SparsePOConfig(PreferenceArguments, DPOConfig):
    """TRL's DPOConfig with ``preference_loss`` and ``loss_options``.

    ``beta``, ``learning_rate``, ``seed`` and everything else keep TRL's names and defaults. ``loss_options``
    are the options of docs/options.md without their prefix, such as ``{"masks": "independent"}``.
    """

    # Read from JSON on a command line.
    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*DPOConfig._VALID_DICT_FIELDS, "loss_options"]
