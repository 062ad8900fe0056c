"""The steps, by call, in the order of what they are worth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from benchmarks.gpu_check import correctness, end_to_end, longest, speed

Work = Callable[..., Any]


class Step(NamedTuple):
    """One process.

    Attributes:
      call: the call of at most ten minutes that it belongs to.
      name: what the results say.
      seconds: its time limit on a GPU.
      work: takes a Report and a Setting.
    """

    call: int
    name: str
    seconds: int
    work: Work


def _all() -> list[Step]:
    found = [
        Step(1, "ceilings", 40, correctness.ceilings),
        Step(1, "kernels against float64", 90, correctness.kernels),
        Step(1, "fused statistics against float64", 90, correctness.fused),
        Step(1, "tiny training on device and CPU", 60, correctness.training),
    ]
    found += [
        Step(1, f"attention: {kind}", 75, partial(correctness.family, kind=kind))
        for kind in correctness.FAMILIES
    ]
    found += [Step(1, "compute-sanitizer", 110, correctness.sanitizer), Step(2, "products", 30, speed.gemms)]
    found += [Step(2, f"step: {name}", 130, partial(speed.workload, name=name)) for name in speed.WORKLOADS]
    found += [Step(2, "profile", 60, speed.profile), Step(2, "step: 8B, tldr", 180, speed.eight_billion)]
    found += [
        Step(3, f"train: {name}", 110, partial(end_to_end.mode, name=name)) for name in end_to_end.MODES
    ]
    found += [
        Step(3, "train: resume, export", 150, end_to_end.resume_and_export),
        Step(3, "train: TRL, autocast", 90, end_to_end.trl_adapter),
    ]
    found += [
        Step(4, f"longest: {row}", 110, partial(longest.longest, row=row))
        for row in ("sparsepo", speed.BASE, "sparsepo, FlexAttention", "openrlhf dpo, packed", "trl dpo")
    ]
    return found


STEPS = {step.name: step for step in _all()}
