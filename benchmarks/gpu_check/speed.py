"""Call 2: seconds and memory of a step, beside OpenRLHF's DPO, padded and packed, and TRL's."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_check.report import Report, Setting, SkippedError
from benchmarks.gpu_check.timing import peak_mib, seconds, wait
from benchmarks.step.bare import Ours, PackedDPO, PlainDPO, objective_of
from benchmarks.step.models import EIGHT_BILLION, TINY, Models, build
from benchmarks.step.workloads import PairBatch, Workload, steps
from sparsepo_plugin.adapters.prefix.attention import FLEX, SDPA

WORKLOADS = {
    "tldr": Workload("tldr", 128_256, 8, 8, 1024),
    "hh": Workload("hh", 128_256, 8, 8, 1024),
    "ultra": Workload("spread", 128_256, 8, 8, 0, 560, 0.35),
    "long": Workload("made", 128_256, 2, 2, 0, 3072, 2 / 3),
}
BASE = "openrlhf dpo, padded"


def _trl(models: Models) -> Any:
    if importlib.util.find_spec("trl") is None:
        raise ValueError("trl is not installed")
    from benchmarks.step.rows import ByTRL

    return ByTRL(models, ())


def _ours(loss: str = "sparsepo", **options: Any) -> Callable[[Models], Any]:
    return lambda models: Ours(models, objective_of(loss, models), **options)


ROWS: dict[str, Callable[[Models], Any]] = {
    BASE: PlainDPO,
    "openrlhf dpo, packed": PackedDPO,
    "trl dpo": _trl,
    "sparsepo": _ours(),
    "sparsepo, two rows": _ours(shared=False),
    "sparsepo, FlexAttention": _ours(kernel=FLEX),
    "sparsepo, sdpa with a mask": _ours(kernel=SDPA),
    "dpo (no mask, no kl)": _ours("dpo"),
}
# Other ways of ours, compared where prompts are long.
OTHER_WAYS = ("sparsepo, two rows", "sparsepo, FlexAttention", "sparsepo, sdpa with a mask")
# Rows that compute the same loss.
SAME = (("openrlhf dpo, packed", "trl dpo", "dpo (no mask, no kl)"), BASE), (
    ("sparsepo, two rows", "sparsepo, FlexAttention", "sparsepo, sdpa with a mask"), "sparsepo",
)  # fmt: skip


def gemms(report: Report, setting: Setting) -> None:
    """What widths and rows of the head's products cost that no kernel is made for."""
    count, hidden = (64, 32) if setting.tiny else (2400, 2048)
    states = torch.randn(count, hidden, device=setting.device, dtype=setting.dtype)
    for width in (96, 97) if setting.tiny else (27_648, 27_961, 27_962, 27_968):
        part = torch.randn(width, hidden, device=setting.device, dtype=setting.dtype)
        report.note(f"width {width} us", 1e6 * seconds(lambda part=part: states @ part.t()))
    weight = torch.randn(setting.vocabulary, hidden, device=setting.device, dtype=setting.dtype)
    for rows in (32, 33) if setting.tiny else (512, 523):
        some = states[:rows].contiguous()
        report.note(f"rows {rows} us", 1e6 * seconds(lambda some=some: some @ weight.t()))


def workload(report: Report, setting: Setting, name: str) -> None:
    """All rows on one kind of batch."""
    work = WORKLOADS[name]
    if setting.tiny:
        work = Workload("hh" if name in ("tldr", "hh") else work.name, 500, 2, 2, 64, 24, work.share)
    models = build(setting.shape, setting.vocabulary, device=setting.device, dtype=setting.dtype)
    _compare(report, models, work, setting, other_ways=name in ("tldr", "long"))


def eight_billion(report: Report, setting: Setting) -> None:
    """A model of 8 billion parameters, recomputed layers, no optimizer."""
    shape = TINY if setting.tiny else EIGHT_BILLION
    if setting.device == "cuda" and torch.cuda.mem_get_info()[1] < 70 * 2**30:
        raise SkippedError("two models of 16 GiB, gradients and activations need a card of 80 GB")
    models = build(shape, setting.vocabulary, device=setting.device, dtype=setting.dtype)
    models.policy.gradient_checkpointing_enable({"use_reentrant": False})
    work = Workload("hh" if setting.tiny else "tldr", setting.vocabulary, 2, 2, 64 if setting.tiny else 1024)
    _compare(report, models, work, setting)


def _compare(
    report: Report, models: Models, work: Workload, setting: Setting, other_ways: bool = False
) -> None:
    rounds = 2 if setting.tiny else 5
    batches = [step[0].to(setting.device) for step in steps(work, rounds)]
    report.note("tokens", round(statistics.mean(batch.tokens() for batch in batches)))
    losses: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    made = _made(report, models, [name for name in ROWS if other_ways or name not in OTHER_WAYS], setting)
    for name, row in made.items():
        run = _step_of(row)
        try:
            losses[name] = run(batches[0])
            times[name] = []
            # Above the weights: gradients of the call before are part of the peak.
            row.models.policy.zero_grad(set_to_none=True)
            report.note(f"{name}: MiB", peak_mib(lambda run=run: run(batches[0])))
            # The allocator has then seen every shape, and autotuners and compilers too.
            for batch in batches[1:]:
                run(batch)
        except torch.OutOfMemoryError:
            report.note(f"{name}: MiB", "out of memory")
            times.pop(name, None)
    for number, batch in enumerate(batches):
        for name in list(times)[:: 1 if number % 2 else -1]:
            run = _step_of(made[name])
            times[name].append(seconds(lambda run=run, batch=batch: run(batch), rounds=1, warm=0))
    for name, found in times.items():
        ratios = [mine / base for mine, base in zip(found, times.get(BASE, []))]
        report.note(f"{name}: seconds", statistics.median(found))
        report.note(
            f"{name}: ratio", [statistics.median(ratios), min(ratios), max(ratios)] if ratios else None
        )
    limit = 1e-4 if setting.tiny else 3e-2
    for others, base in SAME:
        for other in others:
            if base in losses and other in losses:
                report.require(f"{other}: loss off by", abs(losses[other] - losses[base]), limit)


def _made(report: Report, models: Models, names: list[str], setting: Setting) -> dict[str, Any]:
    found = {}
    for name in names:
        if "Flex" in name and setting.device == "cpu":
            continue  # it has no backward pass there
        try:
            found[name] = ROWS[name](models)
        except (ValueError, ImportError) as reason:
            report.note(f"{name}: left out", str(reason)[:200])
    return found


def _step_of(row: Any) -> Callable[[PairBatch], float]:
    def run(batch: PairBatch) -> float:
        row.models.policy.zero_grad(set_to_none=True)
        row.mask_source.zero_grad(set_to_none=True)
        with row.ready():
            loss = row.loss(batch)
            loss.backward()
        wait()
        return float(loss)

    return run


def profile(report: Report, setting: Setting) -> None:
    """Where a step's time goes: idle share, launches, the longest kernels."""
    models = build(setting.shape, setting.vocabulary, device=setting.device, dtype=setting.dtype)
    work = Workload("hh", setting.vocabulary, 2, 2, 64) if setting.tiny else WORKLOADS["tldr"]
    batch, run = (
        steps(work, 1)[0][0].to(setting.device),
        _step_of(Ours(models, objective_of("sparsepo", models))),
    )
    took = seconds(lambda: run(batch), rounds=3)
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if setting.device == "cuda" else []
    with torch.profiler.profile(activities=activities) as profiler:
        run(batch)
    events = profiler.key_averages()
    device = [event for event in events if getattr(event, "self_device_time_total", 0) > 0]
    busy = sum(event.self_device_time_total for event in device) / 1e6
    report.note("seconds", took)
    report.note("device busy", busy / took if busy else None)
    report.note("kernels", sum(event.count for event in device))
    kind = "self_device_time_total" if busy else "self_cpu_time_total"
    longest = sorted(events, key=lambda event: -getattr(event, kind))[:12]
    report.note("longest", {event.key[:60]: round(getattr(event, kind) / 1e3, 3) for event in longest})
