"""Call 4: the longest row, half of it prompt, of which one pair fits; every row of the table by itself."""

from __future__ import annotations

import torch

from benchmarks.gpu_check.report import Report, Setting, SkippedError
from benchmarks.gpu_check.speed import ROWS, _step_of
from benchmarks.step.models import build
from benchmarks.step.workloads import Workload, steps

STRIDE = 256


def longest(report: Report, setting: Setting, row: str) -> None:
    """Look for it by halving; noted as found, so that a time limit leaves what was reached."""
    if "Flex" in row and setting.device == "cpu":
        raise SkippedError("FlexAttention has no backward pass on CPU")
    most, stride = (64, 16) if setting.tiny else (65_536, STRIDE)
    models = build(setting.shape, setting.vocabulary, device=setting.device, dtype=setting.dtype)
    models.policy.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        run = _step_of(ROWS[row](models))
    except (ValueError, ImportError) as reason:
        raise SkippedError(str(reason)) from None
    good, bad, size = 0, most // stride + 1, 4
    while bad - good > 1:
        size = min(2 * size if bad > most // stride else (good + bad) // 2, bad - 1)
        batch = steps(Workload("made", setting.vocabulary, 1, 1, 0, stride * size, 0.5), 1)[0][0]
        try:
            run(batch.to(setting.device))
            good = size
        except torch.OutOfMemoryError:
            bad = size
            torch.cuda.empty_cache()
        report.note("tokens", good * stride)
    report.note("limit reached", good * stride + stride > most)
