"""What is compared: losses with options, inverse temperatures, and the settings tried on validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from study.choose import Setting

BETAS = (0.05, 0.2, 0.8, 3.2)
# SimPO's rewards are means over tokens, not sums.
MEAN_BETAS = (1.0, 3.0, 10.0, 30.0)
# Tried for BASELINE, which is the one to beat; every other method trains at the rate that suits it best.
RATES = (3e-4, 6e-4)
BASELINE = "dpo"
PAPER = {"preset": "paper"}  # which has no anchor
ALONE = {"anchor": 0.0}  # our masks without the anchor that the default has
INDEPENDENT = {"masks": "independent"}


@dataclass(frozen=True)
class Method:
    """One line of the comparison.

    Attributes:
      loss: name in the registry.
      options: options of the loss that are not the default.
      betas: swept.
      tried: further options, of which validation data choose one.
      weighted: gives tokens weights worth looking at.
    """

    loss: str
    options: Mapping[str, Any] = field(default_factory=dict)
    betas: tuple[float, ...] = BETAS
    tried: tuple[Mapping[str, Any], ...] = ({},)
    weighted: bool = False

    @property
    def tuned_at(self) -> float:
        """The inverse temperature at which settings are tried."""
        return self.betas[1]

    def settings(self, rates: Sequence[float]) -> list[Setting]:
        """Every combination of rate and tried options."""
        return [Setting(rate, tried) for tried in self.tried for rate in rates]


ANCHORS = ({"anchor": 1.0}, {"anchor": 4.0})
METHODS: dict[str, Method] = {
    "dpo": Method("dpo"),
    "dpo + anchor": Method("dpo", tried=ANCHORS),
    "tdpo1": Method("tdpo1"),
    "tdpo2": Method("tdpo2"),
    "simpo": Method("simpo", betas=MEAN_BETAS),
    "dpop": Method("dpop", tried=({"penalty": 50.0}, {"penalty": 5.0})),
    "mapo": Method("mapo", weighted=True),
    "sparsepo common, paper": Method("sparsepo", PAPER, weighted=True),
    "sparsepo independent, paper": Method("sparsepo", {**PAPER, **INDEPENDENT}, weighted=True),
    "sparsepo common": Method("sparsepo", ALONE, weighted=True),
    "sparsepo independent": Method("sparsepo", {**ALONE, **INDEPENDENT}, weighted=True),
    "sparsepo + anchor": Method("sparsepo", tried=ANCHORS, weighted=True),
    "random mask": Method("sparsepo", {**ALONE, "source": "random", "density": 0.5}),
}
