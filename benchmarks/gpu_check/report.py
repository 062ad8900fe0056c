"""What a step finds: numbers, and limits that they must keep."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.step.models import ONE_BILLION, TINY, Shape


class SkippedError(Exception):
    """What the step needs is not there; the message says what."""


@dataclass
class Report:
    """A step's numbers; written also where the step fails half-way."""

    numbers: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def note(self, name: str, value: Any) -> None:
        """Record a number, or text."""
        self.numbers[name] = value

    def require(self, name: str, value: float, limit: float) -> None:
        """Record a number that must not be above a limit; a nan is."""
        self.numbers[name] = value
        if not value <= limit:
            self.broken.append(f"{name}: got {value:.3g}, expected at most {limit:.3g}")


@dataclass(frozen=True)
class Setting:
    """Where a step runs.

    Attributes:
      tiny: small sizes in float32, to see that a step runs.
    """

    tiny: bool

    @property
    def device(self) -> str:
        """CUDA where it is."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """Of the models whose speed is measured."""
        return torch.float32 if self.tiny else torch.bfloat16

    @property
    def shape(self) -> Shape:
        """Of the models whose speed is measured."""
        return TINY if self.tiny else ONE_BILLION

    @property
    def vocabulary(self) -> int:
        """Of the same."""
        return 500 if self.tiny else 128_256

    def name(self) -> str:
        """The card's, or the CPU."""
        return torch.cuda.get_device_name() if self.device == "cuda" else "CPU"


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is exact; nan where one is not finite."""
    found, exact = found.detach().double().cpu(), exact.detach().double().cpu()
    return float((found - exact).norm() / exact.norm().clamp(min=1e-30))


def worst(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """Largest of the relative differences; nan where one of them is."""
    values = [relative(one, other) for one, other in zip(found, exact, strict=True)]
    return math.nan if any(map(math.isnan, values)) else max(values)
