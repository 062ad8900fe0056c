"""These tests run in the environment of `make test-axolotl`; elsewhere they are not collected."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

if importlib.util.find_spec("trl") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    # Nothing may be fetched or reported: telemetry of Axolotl is on unless these say otherwise.
    os.environ.update(
        AXOLOTL_DO_NOT_TRACK="1", DO_NOT_TRACK="1", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1",
        OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="",
        DS_ACCELERATOR="cpu", DS_SKIP_CUDA_CHECK="1",
    )  # fmt: skip
    sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
    import torch

    torch.set_num_threads(1)
    pytest_plugins = ["trl_runs"]
