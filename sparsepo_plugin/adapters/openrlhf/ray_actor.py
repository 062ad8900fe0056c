"""One process of a Ray run. Ray's workers import this module, so it prepares OpenRLHF's imports itself."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from sparsepo_plugin.adapters.openrlhf import flags, launch
from sparsepo_plugin.adapters.openrlhf.standin import import_ray_launcher
from sparsepo_plugin.errors import UserError, guarded

import_ray_launcher()
from openrlhf.trainer.ray.launcher import BaseModelActor  # noqa: E402


class TrainActor(BaseModelActor):
    """Runs the trainer; its base sets the variables that torch.distributed reads."""

    def train(self, argv: list[str], folder: str) -> int:
        """Train as one process of the group.

        Args:
          argv: command line without the program name.
          folder: where the run was started; relative paths mean places in it.

        Returns:
          The exit code.
        """
        return guarded(lambda: _train(argv, folder))


def _train(argv: list[str], folder: str) -> None:
    enter(folder, flags.parse(argv).arguments.ckpt.output_dir)
    launch.run(argv)


def enter(folder: str, output: str) -> None:
    """Go to the folder in which the run was started; Ray's workers start in another one.

    Args:
      folder: of the driver.
      output: the run's output folder, as it was given.

    Raises:
      UserError: this machine has no such folder, and a relative output folder would be somewhere else.
    """
    if Path(folder).is_dir():
        os.chdir(folder)
    elif not Path(output).is_absolute():
        raise UserError(
            f"--ckpt.output_dir {output}: node {socket.gethostname()} has no folder {folder}, in which the "
            f"run was started; expected a folder that all nodes share, or absolute paths"
        )
