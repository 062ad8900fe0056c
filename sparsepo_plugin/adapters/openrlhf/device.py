"""OpenRLHF's DeepSpeed strategy on any device: where there is no CUDA, its calls of it mean the CPU."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import openrlhf.utils.deepspeed.deepspeed as upstream
import torch
from deepspeed.runtime import bf16_optimizer
from openrlhf.utils.deepspeed import DeepspeedStrategy
from tqdm import tqdm

from sparsepo_plugin.adapters.openrlhf import quiet
from sparsepo_plugin.patched import patched


@contextmanager
def without_cuda() -> Iterator[None]:
    """Let upstream's calls of torch.cuda and its "cuda" mesh mean the CPU, where there is no CUDA."""
    if torch.cuda.is_available():
        yield
        return
    mesh = upstream.init_device_mesh
    with ExitStack() as stack:
        nothing: Callable[..., None] = lambda *_: None  # noqa: E731
        stack.enter_context(
            patched(torch.cuda, set_device=nothing, synchronize=nothing, current_device=lambda: "cpu")
        )
        stack.enter_context(
            patched(upstream, init_device_mesh=lambda _, *shape, **names: mesh("cpu", *shape, **names))
        )
        yield


class AnyDevice(DeepspeedStrategy):
    """Upstream's strategy for any device."""

    def setup_distributed(self, timeout: timedelta = timedelta(minutes=60)) -> None:
        """Start torch.distributed; without a launcher as a single process."""
        if not torch.cuda.is_available():
            _single_process_defaults()
            # DeepSpeed otherwise compiles a C++ all-reduce for minutes. The attribute path
            # deepspeed.comm.torch is torch itself, hence the look-up in sys.modules.
            sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
            # Nor is the arithmetic of Muon compiled, which takes minutes on CPU.
            torch.compiler.set_stance("force_eager")
        with without_cuda():
            super().setup_distributed(timeout)

    def get_ds_train_config(self, optim_dict: dict[str, Any] | None = None, **limits: Any) -> dict[str, Any]:
        """Upstream's configuration; on CPU with torch's AdamW, also beside Muon: it needs no compiler."""
        config: dict[str, Any] = super().get_ds_train_config(optim_dict, **limits)
        if not torch.cuda.is_available() and optim_dict:
            config["optimizer"] = {**optim_dict, "params": {**optim_dict["params"], "torch_adam": True}}
        return config

    def prepare(self, *models: Any) -> Any:
        """Upstream's engines, without DeepSpeed's lines on memory."""
        with patched(bf16_optimizer, see_memory_usage=lambda *_, **__: None):
            return super().prepare(*models)

    def print(self, *message: Any) -> None:
        """Print above the bar, by the first process; a model in one line."""
        if self.is_rank_0():
            tqdm.write(" ".join(str(quiet.described(part)) for part in message))

    def all_reduce(self, data: Any, op: str = "mean") -> Any:
        """Reduce a number, tensor or dict over all processes."""
        with without_cuda():
            return super().all_reduce(data, op)

    def all_gather(self, data: Any) -> Any:
        """Gather a number, tensor or dict of all processes."""
        with without_cuda():
            return super().all_gather(data)


def _single_process_defaults() -> None:
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    defaults = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in defaults.items():
        os.environ.setdefault(name, str(value))
