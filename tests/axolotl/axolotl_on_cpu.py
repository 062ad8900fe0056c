"""``axolotl train`` in the processes of a launcher on a CPU: ``torchrun -m axolotl_on_cpu run.yaml``.

Axolotl names to every process, and to FSDP2's mesh, the accelerator of its number, and there is none; it asks
whether two of them reach each other, which a torch built for CUDA answers with a crash where there is no
driver. It does not pass on that a CPU is meant, without which accelerate joins no processes there;
FSDP2 it runs on accelerators only. Nothing else is changed.
"""

from __future__ import annotations

import sys
from typing import Any

import deepspeed
from accelerate.parallelism_config import ParallelismConfig
from accelerate.utils import FullyShardedDataParallelPlugin
from axolotl.cli.train import do_cli
from axolotl.loaders.model import ModelLoader
from axolotl.monkeypatch.accelerate import fsdp2
from axolotl.utils import trainer as axolotl_trainer
from cells import shard_fully
from transformers import Trainer, TrainingArguments

_set_device_map = ModelLoader._set_device_map_config
_post_init = TrainingArguments.__post_init__
_make_accelerator = Trainer.create_accelerator_and_postprocess
_mesh = ParallelismConfig.build_device_mesh
_prepare = fsdp2.fsdp2_prepare_model


def without_accelerators(self: Any) -> None:
    """Upstream's settings, without a place for the model."""
    _set_device_map(self)
    self.model_kwargs.pop("device_map", None)


def on_a_cpu(self: Any) -> None:
    """Upstream's checks, of arguments that say what is meant."""
    self.use_cpu = True
    _post_init(self)


def with_fsdp(self: Any) -> None:
    """Upstream's accelerator, with the FSDP plugin that Axolotl's keys describe."""
    _make_accelerator(self)
    if self.args.fsdp_plugin_args is not None:
        shard_fully(self, FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args))


def mesh_of_cpus(self: ParallelismConfig, _: str) -> Any:
    """Upstream's mesh, of processes without accelerators."""
    return _mesh(self, "cpu")


def said(accelerator: Any, model: Any) -> Any:
    """Axolotl's own sharding, and a line that it was called."""
    print("sharded by Axolotl:", type(model).__name__, flush=True)
    return _prepare(accelerator, model)


ModelLoader._set_device_map_config = without_accelerators
TrainingArguments.__post_init__ = on_a_cpu
Trainer.create_accelerator_and_postprocess = with_fsdp
ParallelismConfig.build_device_mesh = mesh_of_cpus
fsdp2.fsdp2_prepare_model = said
axolotl_trainer.check_cuda_p2p_ib_support = lambda: True

if __name__ == "__main__":
    # Accelerate leaves DeepSpeed's own communication out on a CPU.
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    do_cli(config=sys.argv[1])
