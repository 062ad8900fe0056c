"""Run several trainings in one process, because the imports take longer than a tiny run.

Usage, under torchrun too: ``python train_many.py RUNS.json RESULTS.json``; RUNS.json lists command lines.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import torch

from sparsepo_plugin import train_dpo
from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf

import_openrlhf()
from openrlhf.models import Actor  # noqa: E402

from sparsepo_plugin.forward import pair_statistics  # noqa: E402
from sparsepo_plugin.forward.block_states import BlockStates  # noqa: E402
from sparsepo_plugin.forward.statistics import slices  # noqa: E402


def counting() -> dict[str, int]:
    """Count, from here on, what a loss may ask for: forward passes, hidden states, full-vocabulary KLs.

    A training pass of the reference is one without gradients; an evaluation would add the policy's. ``fused``
    and ``logits`` say where the statistics of a batch came from: the head's states, or a table of logits.
    """
    work = dict.fromkeys(("policy", "reference", "hidden_states", "token_kl", "fused", "logits"), 0)
    forward, kl, taking, fused, from_logits = _PLAIN

    def counted_forward(self, *args, **options):
        work["policy" if torch.is_grad_enabled() else "reference"] += 1
        return forward(self, *args, **options)

    def counted_kl(*args):
        work["token_kl"] += 1
        return kl(*args)

    def counted_taking(self, *args):
        work["hidden_states"] += 1
        return taking(self, *args)

    def counted_fused(*args, **options):
        work["fused"] += 1
        return fused(*args, **options)

    def counted_logits(*args, **options):
        work["logits"] += 1
        return from_logits(*args, **options)

    Actor.forward, slices.kl, BlockStates.taking = counted_forward, counted_kl, counted_taking
    pair_statistics.fused_statistics, pair_statistics.statistics_at = counted_fused, counted_logits
    return work


_PLAIN = (
    *(Actor.forward, slices.kl, BlockStates.taking),
    *(pair_statistics.fused_statistics, pair_statistics.statistics_at),
)

if __name__ == "__main__":
    results = []
    for argv in json.loads(Path(sys.argv[1]).read_text()):
        out, err = io.StringIO(), io.StringIO()
        work = counting()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = train_dpo.main(argv)
        results.append({"code": code, "out": out.getvalue(), "err": err.getvalue(), "work": work})
    if os.environ.get("RANK", "0") == "0":
        Path(sys.argv[2]).write_text(json.dumps(results))
