"""Compile every kernel for the GPUs of three generations; no GPU is needed."""

from __future__ import annotations

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sparsepo_plugin.forward.statistics import triton_kernels

TABLE, IDS, VALUES = "*fp32", "*i64", "*fp32"
STATISTICS = {
    "z": TABLE, "r": TABLE, "targets": IDS,
    **dict.fromkeys(("logps", "lse", "reference_logps", "reference_lse", "kl"), VALUES),
    **dict.fromkeys(("vocab", "z_stride", "r_stride"), "i32"),
}  # fmt: skip
GRADIENT = {
    "z": TABLE, "r": TABLE, "out": "*bf16", "targets": IDS,
    **dict.fromkeys(("lse", "reference_lse", "grad_logps", "grad_kl"), VALUES),
    **dict.fromkeys(("first", "width", "z_stride", "r_stride", "out_stride"), "i32"),
    "scale": "fp32", "cap": "fp32",
}  # fmt: skip
STATISTICS_FLAGS = [
    {"REFERENCE": reference, "KL": kl} for reference, kl in ((False, False), (True, False), (True, True))
]
GRADIENT_FLAGS = [{"CAPPED": capped, "KL": kl} for capped in (False, True) for kl in (False, True)]
VARIANTS = [
    (triton_kernels.statistics, STATISTICS, STATISTICS_FLAGS, 4096),
    (triton_kernels.slice_gradient, GRADIENT, GRADIENT_FLAGS, 1024),
]


def main():
    for architecture in (80, 90, 100):
        for kernel, signature, flags, block in VARIANTS:
            for values in flags:
                constants = {**values, "BLOCK": block}
                source = ASTSource(
                    kernel, {**signature, **dict.fromkeys(constants, "constexpr")}, constexprs=constants
                )
                compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
                assert compiled.asm["cubin"]
    print("all right")


main()
