"""One process of a Ray run. Ray's workers import this module, so it prepares OpenRLHF's imports itself."""

from __future__ import annotations

from sparsepo_plugin.adapters.openrlhf import launch
from sparsepo_plugin.adapters.openrlhf.standin import import_ray_launcher
from sparsepo_plugin.errors import guarded

import_ray_launcher()
from openrlhf.trainer.ray.launcher import BaseModelActor  # noqa: E402


class TrainActor(BaseModelActor):
    """Runs the trainer; its base sets the variables that torch.distributed reads."""

    def train(self, argv: list[str]) -> int:
        """Train as one process of the group; returns the exit code."""
        return guarded(lambda: launch.run(argv))
