"""As train_many.py, and every run also leaves the mask module's gradient of every step in gradients.pt.

Usage, under torchrun too: ``python train_recording.py RUNS.json RESULTS.json``. A crash is a result as well.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from pathlib import Path

import torch

from sparsepo_plugin import train_dpo
from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf

import_openrlhf()
from deepspeed.utils import safe_get_full_grad  # noqa: E402

from sparsepo_plugin.adapters.openrlhf.checkpoints import MASK_MODULE  # noqa: E402
from sparsepo_plugin.adapters.openrlhf.strategy import PreferenceStrategy  # noqa: E402

FIRST = os.environ.get("RANK", "0") == "0"
gradients: list[dict[str, torch.Tensor]] = []
upstream_backward = PreferenceStrategy.backward


def backward(self, loss, model, optimizer, **options):
    """Upstream's, then the gradient that the optimizer step which follows will see, before clipping."""
    upstream_backward(self, loss, model, optimizer, **options)
    masks = getattr(self._unwrap_model(model), MASK_MODULE, None)
    if masks is not None and model.model.is_gradient_accumulation_boundary():
        found = {name: safe_get_full_grad(p) for name, p in masks.named_parameters()}
        gradients.append({name: g.detach().float().clone() for name, g in found.items() if g is not None})


def run(argv: list[str]) -> dict[str, object]:
    gradients.clear()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = train_dpo.main(argv)
        except Exception:
            code = 99
            traceback.print_exc()
    folder = Path(argv[-1])
    if FIRST and folder.is_dir():
        torch.save(gradients, folder / "gradients.pt")
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    PreferenceStrategy.backward = backward
    results = [run(argv) for argv in json.loads(Path(sys.argv[1]).read_text())]
    if FIRST:
        Path(sys.argv[2]).write_text(json.dumps(results))
