"""An optimizer of the mask module alone, where the policy's cannot hold it.

DeepSpeed and FSDP2 know the parameters of the model they shard and no others, and many optimizers build their
own groups or step inside the backward pass.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import Adafactor, Trainer

from sparsepo_plugin.adapters.mask_parameters import Groups
from sparsepo_plugin.errors import UserError

# Optimizers that also take the mask module's groups; others build groups of their own, keep one rate for all,
# or are not tested with them.
OPTIMIZERS = (torch.optim.AdamW, torch.optim.SGD, Adafactor)
FILE = "sparsepo_mask_optimizer.pt"


class MaskOptimizer:
    """Steps the mask module beside the policy's own optimizer, on every process alike.

    It is what the arguments name where that is one of OPTIMIZERS, else AdamW with the arguments' betas.

    Args:
      groups: parameter groups with their learning rates at the schedule's full height.
      args: TRL training arguments.

    Raises:
      UserError: the learning rate is 0.
    """

    def __init__(self, groups: Groups, args: Any) -> None:
        if not args.learning_rate > 0:
            raise UserError(
                f"learning_rate: got {args.learning_rate!r}, expected a number > 0 where the mask module has "
                f"an optimizer of its own: that follows the policy's schedule"
            )
        self._rates = [group["lr"] for group in groups]
        kind, options = torch.optim.AdamW, _adam_options(args)
        if not _named_in_deepspeed_file(args):
            named, its_options = Trainer.get_optimizer_cls_and_kwargs(args)
            kind, options = (named, its_options) if named in OPTIMIZERS else (kind, options)
        self._optimizer = kind(groups, **options)

    def step(self, share: float) -> None:
        """Update the module.

        Args:
          share: where the policy's learning rate stands in its schedule, as a share of its full height.
        """
        for group, rate in zip(self._optimizer.param_groups, self._rates):
            group["lr"] = rate * share
        self._optimizer.step()

    def save(self, folder: str | Path) -> None:
        """Write the state into a checkpoint folder."""
        part = Path(folder) / f".{FILE}.{os.getpid()}.part"
        torch.save(self._optimizer.state_dict(), part)
        os.replace(part, Path(folder) / FILE)

    def load(self, folder: str | Path) -> None:
        """Read the state of a checkpoint folder.

        Raises:
          UserError: no such file, a damaged one, or that of another module.
        """
        path = Path(folder) / FILE
        try:
            self._optimizer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file, expected the mask module's optimizer beside the policy's; resume "
                f"from a checkpoint of a run that spread its policy alike, or start anew"
            ) from None
        except Exception as error:  # a damaged archive raises whatever its first unreadable part does
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: cannot be read as the mask module's optimizer ({reason})") from None


def _adam_options(args: Any) -> dict[str, Any]:
    return {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}


def _named_in_deepspeed_file(args: Any) -> bool:
    """Whether the optimizer is DeepSpeed's own; upstream holds its numbers to those of the arguments."""
    plugin = getattr(args, "deepspeed_plugin", None)
    return plugin is not None and "optimizer" in plugin.hf_ds_config.config
