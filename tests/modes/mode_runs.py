"""The trainings behind the tests of modes, all in one launch per number of processes.

CELLS: a pairwise cover of how a batch is split, ZeRO stage, packing, checkpointing and loss, in float32.
HALF: the same objective in bfloat16. MODES: every other mode. Names say what a run differs in.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from cover import Cell, pairwise_cover
from training import FP32, PENALTIES, SPARSE, Inputs
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo_plugin.demo.language import vocabulary
from sparsepo_plugin.demo.tiny import build_model, build_tokenizer, save_tiny

# For reading the names of runs alone.
NOWHERE = Inputs(**{field.name: Path() for field in dataclasses.fields(Inputs)})

FACTORS = {
    "split": ("one", "two", "accumulated"),
    "zero": ("0", "2", "3"),
    "rows": ("padded", "packed"),
    "checkpointing": ("off", "on"),
    "head": ("off", "auto"),
    "prefix": ("off", "auto"),
    "loss": ("dpo", "sparsepo", "mapo"),
}
BASES: dict[str, Cell] = {loss: ("one", "0", "padded", "off", "off", "off", loss) for loss in FACTORS["loss"]}
CELLS = pairwise_cover(FACTORS, list(BASES.values()))
# Stage 0 is left out: there DeepSpeed trains the bfloat16 weights themselves, which is another arithmetic.
HALF_BASE: Cell = ("one", "2", "padded", "off", "off", "off", "sparsepo")
HALF: list[Cell] = [
    HALF_BASE,
    ("accumulated", "2", "packed", "on", "auto", "off", "sparsepo"),
    ("one", "3", "padded", "off", "auto", "auto", "sparsepo"),
    ("two", "2", "padded", "on", "off", "auto", "sparsepo"),
    ("two", "3", "packed", "off", "auto", "off", "sparsepo"),
]
LOSSES = {"dpo": ["--loss", "dpo"], "sparsepo": [*SPARSE, *PENALTIES], "mapo": ["--loss", "mapo"]}

# Six steps of eight pairs; no warm-up, so that the second step already sees another policy. Adam divides by
# the gradient's own size: with its default of 1e-8, entries whose gradient is but rounding noise (1e-8) would
# move at full speed in a direction that the order of a sum decides. Gradients here are of size 0.1 and more.
STEPS = ["--train.max_epochs", "2", "--lr_warmup_ratio", "0", "--adam.eps", "1e-5"]
CHECKPOINTING = ["--model.gradient_checkpointing_enable"]
PACKED = ["--ds.packing_samples"]
LORA = ["--ds.lora.rank", "4"]
# Upstream's advice: DeepSpeed clips after Muon's update, and would shrink it.
MUON = ["--optim", "muon", "--muon.lr", "0.002", "--max_norm", "0"]
TENSOR = ["--ds.tensor_parallel_size", "2"]
HALF_MAPO: Cell = ("one", "2", "padded", "off", "off", "off", "mapo")


def zero(stage: int | str) -> list[str]:
    return ["--ds.zero_stage", str(stage)]


def cell_flags(cell: Cell) -> list[str]:
    """Flags of a cell; the global batch is the same eight pairs at every step."""
    split, stage, rows, checkpointing, head, prefix, loss = cell
    return [
        *LOSSES[loss], *STEPS, *zero(stage),
        *("--perf.head", head, "--perf.prefix", prefix),
        *("--train.micro_batch_size", "8" if split == "one" else "4"),
        *(PACKED if rows == "packed" else []),
        *(CHECKPOINTING if checkpointing == "on" else []),
    ]  # fmt: skip


def name(cell: Cell, kind: str = "cell") -> str:
    return "-".join((kind, *cell))


def experts(inputs: Inputs) -> list[str]:
    return ["--model.model_name_or_path", str(inputs.root / "mixtral"), "--model.aux_loss_coef", "0.1"]


def single_modes(inputs: Inputs) -> dict[str, list[str]]:
    """Modes of one process: flags added to those of the objective; float32 unless they say otherwise."""
    mixture = experts(inputs)
    four_bit = ["--ds.load_in_4bit", "--model.model_name_or_path", str(inputs.root / "wide")]
    evaluated = ["--eval.dataset", str(inputs.held_out)]
    return {
        "zero-1": [*FP32, *zero(1)],
        "bf16-zero-0": zero(0),
        "adam-offload": [*FP32, "--ds.adam_offload"],
        "adam-offload-zero-3": [*FP32, *zero(3), "--ds.adam_offload"],
        "reference-offload-zero-3": [*FP32, *zero(3), "--ref.offload"],
        "packed-zero-3": [*FP32, *zero(3), *PACKED, *evaluated],
        "reentrant": [*FP32, *CHECKPOINTING, "--model.gradient_checkpointing_reentrant"],
        "reentrant-zero-3": [*FP32, *CHECKPOINTING, "--model.gradient_checkpointing_reentrant", *zero(3)],
        "lora": [*FP32, *LORA],
        "lora-bf16-zero-3": [*LORA, *zero(3)],
        "lora-checkpointing": [*LORA, *CHECKPOINTING],
        "lora-4-bit": [*LORA, *four_bit],
        "muon": [*FP32, *MUON],
        "muon-bf16-zero-1": [*MUON, *zero(1)],
        "muon-lora": [*FP32, *MUON, *LORA],
        "experts": [*FP32, *mixture],
        "experts-zero-3": [*FP32, *mixture, *zero(3)],
        "likelihood": [*FP32, "--model.nll_loss_coef", "0.2"],
        "overlap": ["--ds.overlap_comm"],
        "accumulation-dtype": ["--ds.grad_accum_dtype", "fp32"],
        "workers": [*FP32, "--data.dataloader_num_workers", "1"],
        "length-batches": [*FP32, "--data.length_batching"],
    }


def double_modes() -> dict[str, list[str]]:
    """Modes of two processes."""
    return {
        "zero-1": [*FP32, *zero(1)],
        "lora-zero-3": [*FP32, *LORA, *zero(3)],
        "reference-offload-zero-3": [*FP32, *zero(3), "--ref.offload"],
        "muon": [*FP32, *MUON],
        "tensor-parallel": [*TENSOR, *cell_flags(HALF_BASE)],
        "tensor-parallel-packed": [*TENSOR, *cell_flags(HALF_BASE), *PACKED],
        "tensor-parallel-muon": [*TENSOR, *MUON],
    }


def upstream_runs(inputs: Inputs) -> dict[str, list[str]]:
    """Upstream's own loss beside ours, where terms of upstream's loop are added to it."""
    terms = ["--model.nll_loss_coef", "0.2", *FP32, *STEPS]
    plain = {"terms": [*terms, *experts(inputs)], "packed": [*terms, *PACKED]}
    with_dpo = {f"dpo-{key}": [*flags, "--loss", "dpo"] for key, flags in plain.items()}
    return {**{f"upstream-{key}": flags for key, flags in plain.items()}, **with_dpo}


def single_runs(inputs: Inputs) -> dict[str, list[str]]:
    common = inputs.flags()
    cells = {name(cell): [*common, *FP32, *cell_flags(cell)] for cell in CELLS if cell[0] != "two"}
    half = {name(cell, "half"): [*common, *cell_flags(cell)] for cell in HALF if cell[0] != "two"}
    modes = {key: [*common, *SPARSE, *STEPS, *flags] for key, flags in single_modes(inputs).items()}
    upstream = {key: [*common, *flags] for key, flags in upstream_runs(inputs).items()}
    mapo = [*common, *FP32, *LOSSES["mapo"], *STEPS, *experts(inputs)]
    others = {
        name(HALF_MAPO, "half"): [*common, *cell_flags(HALF_MAPO)],
        "mapo-experts": mapo,
        "mapo-experts-zero-3": [*mapo, *zero(3)],
        "reference-first": [*common, *FP32, *LOSSES["dpo"], *STEPS, "--ref.precompute"],
    }
    return {**cells, **half, **modes, **upstream, **others}


def double_runs(inputs: Inputs) -> dict[str, list[str]]:
    common = inputs.flags()
    cells = {name(cell): [*common, *FP32, *cell_flags(cell)] for cell in CELLS if cell[0] == "two"}
    half = {name(cell, "half"): [*common, *cell_flags(cell)] for cell in HALF if cell[0] == "two"}
    modes = {key: [*common, *SPARSE, *STEPS, *flags] for key, flags in double_modes().items()}
    mapo = {"tensor-parallel-mapo": [*common, *TENSOR, *cell_flags(HALF_MAPO)]}
    return {**cells, **half, **modes, **mapo}


def write_models(root: Path) -> None:
    """A mixture of experts, and a model whose matrices fit 4-bit kernels for CPU (rows of 64 or more)."""
    tokenizer = build_tokenizer(vocabulary())
    save_tiny(root / "wide", build_model(tokenizer, hidden_size=64, heads=2), tokenizer)
    config = AutoConfig.for_model(
        "mixtral", vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        max_position_embeddings=256, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_tiny(root / "mixtral", AutoModelForCausalLM.from_config(config), tokenizer)
