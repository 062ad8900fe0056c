"""Call 1: does the device compute what float64 on a CPU does?"""

from __future__ import annotations

import copy
import itertools
import platform
import shutil
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.gpu_check.report import Report, Setting, SkippedError, relative, worst
from benchmarks.gpu_check.timing import peak_mib, seconds
from benchmarks.step.bare import Ours, objective_of
from benchmarks.step.models import TINY, Models, build
from benchmarks.step.workloads import PairBatch, collate
from sparsepo_plugin.adapters.prefix.attention import EAGER, FLEX, SDPA, VARLEN, VARLEN_FLASH
from sparsepo_plugin.forward.statistics import (
    HeadWeights,
    LogitMap,
    ReferenceRows,
    fused_statistics,
    triton_rows,
)
from sparsepo_plugin.forward.statistics import rows as plain_rows
from sparsepo_plugin.forward.statistics.rows import Tile


def ceilings(report: Report, setting: Setting) -> None:
    """Versions, and what the device can do: copies, products."""
    size = 512 if setting.tiny else 8192
    for package in ("torch", "triton", "transformers", "flash_attn", "deepspeed", "openrlhf", "trl"):
        try:
            report.note(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            report.note(package, "not installed")
    report.note("python", platform.python_version())
    for dtype in (torch.float32, torch.bfloat16):
        left, right = (torch.randn(size, size, device=setting.device, dtype=dtype) for _ in range(2))
        name = str(dtype).removeprefix("torch.")
        took = seconds(partial(torch.matmul, left, right))
        report.note(f"{name} TFLOP/s", 2 * size**3 / took / 1e12)
    source = torch.empty(size * size, device=setting.device)
    target = torch.empty_like(source)
    report.note("copy GB/s", 8 * size * size / seconds(lambda: target.copy_(source)) / 1e9)


def kernels(report: Report, setting: Setting) -> None:
    """The arithmetic on tiles against float64: vocabularies, rows, strides, -inf, nan."""
    device = setting.device
    usable = triton_rows.usable(torch.empty(1, device=device))
    report.note("kernels", "triton" if usable else "plain torch")
    compute = triton_rows if usable else plain_rows
    vocabularies = (37, 500) if setting.tiny else (32_000, 50_257, 128_256, 128_257, 256_000)
    generator, errors = torch.Generator(device).manual_seed(0), [0.0, 0.0]
    for vocab, count in itertools.product(vocabularies, (1, 7) if setting.tiny else (1, 63, 512)):
        z, r = (torch.randn(count, vocab, device=device, generator=generator) * 3 for _ in range(2))
        z[0, 1] = r[0, 1] = -float("inf")
        targets = torch.arange(2, 2 + count, device=device)
        exact = plain_rows.statistics(Tile(z.double(), r.double()), targets, True)
        found = compute.statistics(Tile(z.clone(), r.clone()), targets, True)
        # As autograd hands them in: expanded, and every other entry of something.
        grads = torch.ones((), device=device).expand(count), torch.ones(count, 2, device=device)[:, 0]
        lse, wide = (exact.lse, exact.reference_lse), tuple(value.double() for value in grads)
        tile = Tile(z.double(), r.double())
        want = plain_rows.slice_gradient(tile, lse, targets, 0, wide, LogitMap(), torch.float64)
        low = tuple(value.float() for value in lse)
        got = compute.slice_gradient(Tile(z, r), low, targets, 0, grads, LogitMap(), torch.float32)
        errors = [max(errors[0], worst([*found[:5]], [*exact[:5]])), max(errors[1], relative(got, want))]
    report.require("values", errors[0], 1e-5)
    report.require("gradient", errors[1], 1e-5)
    odd, targets = torch.zeros(2, 100, device=device), torch.zeros(2, dtype=torch.long, device=device)
    odd[1, 3] = float("nan")
    kl = compute.statistics(Tile(odd, torch.zeros_like(odd)), targets, True).kl
    report.require("nan lost, or found where none is", float(kl.isnan().tolist() != [False, True]), 0)


def fused(report: Report, setting: Setting) -> None:
    """Statistics from states and heads, values and gradients, against float64 on a CPU; peak memory."""
    count, vocab, width = (33, 500, 16) if setting.tiny else (1500, 128_257, 512)
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(*size, generator=generator) * scale
        for size, scale in (((count, width), 1.0), ((vocab, width), width**-0.5)) * 2
    ]
    targets = torch.randint(vocab, (count,), generator=generator)
    weights = torch.linspace(-1, 2, count, dtype=torch.float64)

    def run(dtype: torch.dtype, device: str, rounded: torch.dtype) -> list[torch.Tensor]:
        tensors = [value.to(rounded).to(device, dtype).clone() for value in given]
        for leaf in tensors[:2]:
            leaf.requires_grad_()
        reference = ReferenceRows(tensors[2], lambda: _open(tensors[3]))
        found = fused_statistics(
            tensors[0], HeadWeights(tensors[1], None), targets.to(device), reference, with_kl=True
        )
        scale = weights.to(device)
        (found.policy_logps * scale + found.token_kl * scale.flip(0)).sum().backward()
        return [*found[:3], tensors[0].grad, tensors[1].grad]

    half = (torch.bfloat16,) if setting.device == "cpu" else (torch.bfloat16, torch.float16)
    for dtype, value_limit, gradient_limit in ((torch.float32, 2e-5, 1e-4), *((d, 1e-4, 2e-2) for d in half)):
        exact, found = run(torch.float64, "cpu", dtype), run(dtype, setting.device, dtype)
        name = str(dtype).removeprefix("torch.")
        report.require(f"{name} values", worst(found[:3], exact[:3]), value_limit)
        report.require(f"{name} gradients", worst(found[3:], exact[3:]), gradient_limit)
        peak = peak_mib(lambda dtype=dtype: run(dtype, setting.device, dtype))
        report.note(f"{name} peak MiB", peak)


def _open(weight: torch.Tensor) -> Any:
    return nullcontext(HeadWeights(weight.detach(), None))


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "mistral": {"sliding_window": 32},
    "gemma2": {"sliding_window": 32, "query_pre_attn_scalar": 32, "attn_logit_softcapping": 20.0},
    "gemma3_text": {"sliding_window": 32, "query_pre_attn_scalar": 32},
}


def family(report: Report, setting: Setting, kind: str) -> None:
    """Shared rows in every kernel against two rows, loss and gradients; how many graphs are compiled."""
    dtype = torch.float32 if setting.device == "cpu" else torch.bfloat16
    sizes = {
        "vocab_size": 997, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "pad_token_id": 0,
        "eos_token_id": 1, "bos_token_id": None, "max_position_embeddings": 4096, "attention_dropout": 0.0,
    }  # fmt: skip
    config = AutoConfig.for_model(kind, **{**sizes, **FAMILIES[kind]})
    torch.manual_seed(0)
    plain = "eager" if kind == "gemma2" else "sdpa"
    policy = AutoModelForCausalLM.from_config(config, attn_implementation=plain).to(setting.device, dtype)
    models = Models(policy.train(), copy.deepcopy(policy).eval().requires_grad_(False))
    with torch.no_grad():
        # Otherwise every log-ratio is 0, and every loss ln 2 whatever a kernel does.
        for parameter in models.reference.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    batches = [_pairs([(20, 5, 9)], 0), _pairs([(60, 70, 20), (9, 30, 33), (150, 12, 1), (1, 8, 90)], 1)]
    if not setting.tiny:
        batches.append(_pairs([(1500, 400, 547)], 2))
    expected = [
        _loss_and_gradients(Ours(models, objective_of("sparsepo", models), shared=False, attention=plain), b)
        for b in batches
    ]
    kernels = [VARLEN_FLASH if kind == "gemma2" else VARLEN, EAGER]
    kernels += [SDPA] if plain == "sdpa" else []
    kernels += [FLEX] if setting.device == "cuda" else []
    for kernel in kernels:
        try:
            ours = Ours(models, objective_of("sparsepo", models), attention=plain, kernel=kernel)
        except ValueError as reason:
            report.note(f"{kernel} refused", str(reason)[:200])
            continue
        limit = 1e-4 if dtype == torch.float32 else 4e-2
        for number, (batch, want) in enumerate(zip(batches, expected)):
            found = _loss_and_gradients(ours, batch)
            report.require(f"{kernel} batch {number} loss", abs(found[0] - want[0]), limit)
            report.require(f"{kernel} batch {number} gradients", worst(found[1], want[1]), limit)
    compiled = getattr(torch._dynamo.utils, "counters", {}).get("stats", {}).get("unique_graphs", 0)
    report.note("compiled graphs", compiled)


def _pairs(sizes: list[tuple[int, int, int]], seed: int) -> PairBatch:
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for size in sizes:
        prompt, chosen, rejected = (torch.randint(3, 900, (n,), generator=generator) for n in size)
        rejected[0] = chosen[0] + 1
        pairs.append((torch.cat([prompt, chosen]), torch.cat([prompt, rejected]), len(prompt)))
    return collate(pairs)


def _loss_and_gradients(ours: Ours, batch: PairBatch) -> tuple[float, list[torch.Tensor]]:
    policy = ours.models.policy
    policy.zero_grad(set_to_none=True)
    with ours.ready():
        loss = ours.loss(batch.to(policy.device))
        loss.backward()
    return float(loss), [
        parameter.grad.clone() for parameter in policy.parameters() if parameter.grad is not None
    ]


def training(report: Report, setting: Setting) -> None:
    """Six steps in float32: the device's losses are the CPU's."""
    found = {device: _six_steps(device) for device in dict.fromkeys(("cpu", setting.device))}
    report.note("losses on CPU", found["cpu"])
    distance = max(abs(a - b) for a, b in zip(found["cpu"], found[setting.device]))
    report.require("largest difference", distance, 1e-4)
    report.require("last over first loss", found["cpu"][-1] / found["cpu"][0], 1.0)


def _six_steps(device: str) -> list[float]:
    torch.manual_seed(0)
    models = build(TINY, 97)
    models = Models(*(model.to(device) for model in models))
    ours = Ours(models, objective_of("sparsepo", models))
    optimizer = torch.optim.AdamW([*models.policy.parameters(), *ours.mask_source.parameters()], lr=3e-3)
    batch, losses = _small(device), []
    with ours.ready():
        for _ in range(6):
            optimizer.zero_grad()
            loss = ours.loss(batch)
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
    return losses


def _small(device: str) -> PairBatch:
    batch = _pairs([(12, 5, 9), (4, 7, 3), (9, 6, 6)], 3)
    for ids, _ in (batch.chosen, batch.rejected):
        ids.remainder_(90).add_(3)
    return batch.to(device)


def sanitizer(report: Report, setting: Setting) -> None:
    """NVIDIA's memory checker on the small kernels."""
    tool = shutil.which("compute-sanitizer")
    if tool is None or setting.device == "cpu":
        raise SkippedError("compute-sanitizer or CUDA is not there")
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", _SMALL]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=100)
    report.note("output", (done.stdout + done.stderr)[-400:])
    report.require("exit code", float(done.returncode), 0)


_SMALL = """
import torch
from benchmarks.gpu_check.correctness import kernels
from benchmarks.gpu_check.report import Report, Setting
kernels(Report(), Setting(tiny=True))
"""
