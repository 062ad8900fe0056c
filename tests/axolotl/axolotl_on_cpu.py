"""``axolotl train`` in the processes of a launcher on a CPU: ``torchrun -m axolotl_on_cpu run.yaml``.

Axolotl names to every process the accelerator of its number, and there is none. It does not pass on that a
CPU is meant, without which accelerate joins no processes there. Nothing else is changed.
"""

from __future__ import annotations

import sys
from typing import Any

import deepspeed
from axolotl.cli.train import do_cli
from axolotl.loaders.model import ModelLoader
from transformers import TrainingArguments

_set_device_map = ModelLoader._set_device_map_config
_post_init = TrainingArguments.__post_init__


def without_accelerators(self: Any) -> None:
    """Upstream's settings, without a place for the model."""
    _set_device_map(self)
    self.model_kwargs.pop("device_map", None)


def on_a_cpu(self: Any) -> None:
    """Upstream's checks, of arguments that say what is meant."""
    self.use_cpu = True
    _post_init(self)


ModelLoader._set_device_map_config = without_accelerators
TrainingArguments.__post_init__ = on_a_cpu

if __name__ == "__main__":
    # Accelerate leaves DeepSpeed's own communication out on a CPU.
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    do_cli(config=sys.argv[1])
