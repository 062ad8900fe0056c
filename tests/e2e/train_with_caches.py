"""As train_many.py, with a datasets cache per group of runs; it prints how many models a training holds.

A run NAME@KIND has the cache of all runs NAME@....

Usage, under torchrun too: ``python train_with_caches.py RUNS.json RESULTS.json``.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import datasets

from sparsepo_plugin import train_dpo
from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf

import_openrlhf()
from openrlhf.models import Actor  # noqa: E402

from sparsepo_plugin.adapters.openrlhf.trainer import PreferenceTrainer  # noqa: E402

models: weakref.WeakSet[Any] = weakref.WeakSet()
PLAIN = Actor.__init__, PreferenceTrainer.fit


def remembered(self, *args, **options):
    PLAIN[0](self, *args, **options)
    models.add(self.model)
    print("a model was built")


def counted(self, *args, **options):
    PLAIN[1](self, *args, **options)
    gc.collect()
    print(f"models in memory: {sum(map(holds_weights, models))}")


def holds_weights(model: Any) -> bool:
    """Whether any weight, or this process's part of it, takes memory."""
    parts = (getattr(parameter, "ds_tensor", parameter) for parameter in model.parameters())
    return any(part.untyped_storage().nbytes() for part in parts)


def run(argv: list[str]) -> dict[str, object]:
    gc.collect()
    models.clear()
    folder = Path(argv[-1])
    datasets.config.HF_DATASETS_CACHE = folder.parent / "caches" / folder.name.split("@")[0]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = train_dpo.main(argv)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    Actor.__init__, PreferenceTrainer.fit = remembered, counted
    results = [run(argv) for argv in json.loads(Path(sys.argv[1]).read_text())]
    if os.environ.get("RANK", "0") == "0":
        Path(sys.argv[2]).write_text(json.dumps(results))
