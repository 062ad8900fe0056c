"""Modes that cannot work are refused in one line before anything is loaded or written."""

from __future__ import annotations

import importlib.util

import mode_runs
import pytest
import torch

from sparsepo_plugin import train_dpo
from sparsepo_plugin.adapters.openrlhf import flags, mode_check, preflight
from sparsepo_plugin.errors import UserError

SPARSE = ["--loss", "sparsepo"]
TENSOR = ["--ds.tensor_parallel_size", "2"]
FOUR_BIT = ["--ds.load_in_4bit", "--ds.lora.rank", "4"]
RING = ["--ds.ring_attn_size", "2", "--ds.packing_samples"]

# Flags, number of processes, and words of the refusal. docs/modes.md names the rows.
REFUSED = {
    "unknown-stage": (["--ds.zero_stage", "4"], 1, ["--ds.zero_stage: got 4", "0, 1, 2 or 3"]),
    "muon-zero-0": (["--optim", "muon", "--ds.zero_stage", "0"], 1, ["--optim muon", "stage 0", "1 or 2"]),
    "muon-zero-3": (["--optim", "muon", "--ds.zero_stage", "3"], 1, ["--optim muon", "stage 3", "1 or 2"]),
    "4-bit-without-lora": (["--ds.load_in_4bit"], 1, ["--ds.load_in_4bit", "--ds.lora.rank 0"]),
    "4-bit-zero-3": (
        [*FOUR_BIT, "--ds.zero_stage", "3"], 1, ["zero_stage 3", "0, 1 or 2"],
    ),
    "4-bit-fp32": (
        [*FOUR_BIT, "--ds.param_dtype", "fp32"], 1, ["fp32", "expected bf16"],
    ),
    "tensor-parallel-fp32": ([*TENSOR, "--ds.param_dtype", "fp32"], 2, ["fp32", "expected bf16"]),
    "tensor-parallel-zero-3": ([*TENSOR, "--ds.zero_stage", "3"], 2, ["zero_stage 3", "0, 1 or 2"]),
    "tensor-parallel-lora": ([*TENSOR, "--ds.lora.rank", "4"], 2, ["--ds.lora.rank 4", "expected rank 0"]),
    "tensor-parallel-processes": (TENSOR, 3, ["got 3 processes", "a multiple of 2"]),
    "reference-first-sparsepo": (["--ref.precompute"], 1, ["got True, expected False with --loss sparsepo"]),
    "ring-attention": (RING, 2, ["--ds.ring_attn_size 2 with --loss sparsepo", "expected 1"]),
    "ring-attention-unpacked": (RING[:2], 2, ["packing_samples must be enabled"]),
}  # fmt: skip
NEEDS_CUDA = {
    "flash-attention": (["--ds.attn_implementation", "flash_attention_2"], 1, ["CUDA", "sdpa or eager"]),
    "flash-attention-packed": (
        ["--ds.attn_implementation", "flash_attention_2", "--ds.packing_samples"], 1, ["sdpa or eager"],
    ),
    "fp16": (["--ds.param_dtype", "fp16"], 1, ["--ds.param_dtype fp16 needs CUDA", "bf16 or fp32"]),
    "deepcompile": (["--ds.deepcompile"], 1, ["--ds.deepcompile needs CUDA"]),
}  # fmt: skip


def check(argv: list[str], processes: int) -> None:
    preflight.check(flags.parse(argv), processes)


@pytest.mark.parametrize("name", [*REFUSED, *NEEDS_CUDA])
def test_a_mode_that_cannot_work_is_refused(name, inputs):
    if name in NEEDS_CUDA and torch.cuda.is_available():
        pytest.skip("this works on CUDA")
    argv, processes, words = {**REFUSED, **NEEDS_CUDA}[name]
    with pytest.raises(UserError) as caught:
        check([*inputs.flags(), *SPARSE, *argv], processes)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", ["muon-zero-0", "4-bit-zero-3", "ring-attention-unpacked"])
def test_the_command_refuses_in_one_line_with_exit_code_2(name, inputs, tmp_path, capsys):
    argv = [*inputs.flags(), *SPARSE, *REFUSED[name][0], "--ckpt.output_dir", str(tmp_path / "out")]
    assert train_dpo.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("loss", [SPARSE, []])
def test_an_auxiliary_loss_needs_a_mixture_of_experts(loss, inputs):
    argv = [*inputs.flags(), *loss, "--model.aux_loss_coef", "0.1"]
    with pytest.raises(UserError, match=r"--model.aux_loss_coef 0.1: got a llama model, expected a mixture"):
        check(argv, 1)


def test_a_mixture_of_experts_is_not_split_by_tensor_parallelism(inputs):
    mode_runs.write_models(inputs.root)
    argv = [*inputs.flags(), *SPARSE, *mode_runs.experts(inputs)]
    check(argv, 1)
    with pytest.raises(UserError, match="got a mixtral model, but DeepSpeed cannot split"):
        check([*argv, *TENSOR], 2)


def test_upstreams_ring_attention_needs_its_packages(inputs):
    with pytest.raises(UserError, match="needs CUDA and the packages flash-attn and ring-flash-attn"):
        check([*inputs.flags(), *RING], 2)


@pytest.mark.parametrize("package", ["liger_kernel", "bitsandbytes", "flash_attn"])
def test_a_missing_package_is_named(package, monkeypatch, inputs):
    argv = {
        "liger_kernel": ["--ds.use_liger_kernel"],
        "bitsandbytes": FOUR_BIT,
        "flash_attn": ["--ds.attn_implementation", "flash_attention_2"],
    }[package]
    monkeypatch.setattr(mode_check, "_installed", lambda name: name != package)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: package == "flash_attn")
    with pytest.raises(UserError, match=f"package {package.replace('_', '-')}"):
        check([*inputs.flags(), *SPARSE, *argv], 1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packing_keeps_the_chosen_attention_where_flash_attention_is_absent(attention):
    parsed = flags.parse(["--ds.packing_samples", "--ds.attn_implementation", attention])
    if flags._has_flash_attention():
        assert parsed.arguments.ds.attn_implementation == "flash_attention_2"
    else:
        assert parsed.arguments.ds.attn_implementation == attention


def test_modelscope_is_asked_for_by_name_where_it_is_absent():
    if importlib.util.find_spec("modelscope") is not None:
        pytest.skip("modelscope is installed")
    with pytest.raises(UserError, match="--use_ms needs the package modelscope"):
        flags.parse(["--use_ms"])
