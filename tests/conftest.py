"""Environment of every test: offline, one thread per process, caches in a folder of this run."""

from __future__ import annotations

import os
import shutil
import tempfile

_CACHE = tempfile.mkdtemp(prefix="sparsepo-tests-")
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for _name in ("HF_HOME", "HF_DATASETS_CACHE"):
    os.environ.setdefault(_name, os.path.join(_CACHE, _name.lower()))
# Empty at the start: a C++ extension built by any run would appear, and none built before can be used.
os.environ["TORCH_EXTENSIONS_DIR"] = os.path.join(_CACHE, "torch_extensions")
os.makedirs(os.environ["TORCH_EXTENSIONS_DIR"])

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)
# The machine may be loaded: no deadline. The same examples every time: a failure is one everywhere.
settings.register_profile("sparsepo", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("sparsepo")

pytest_plugins = ["training"]


def pytest_unconfigure() -> None:
    shutil.rmtree(_CACHE, ignore_errors=True)
