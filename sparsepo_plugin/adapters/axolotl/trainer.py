"""Axolotl's DPO trainer with a registered loss; Axolotl imports it by the name that the plugin sets."""

from __future__ import annotations

from typing import Any

from axolotl.core.trainers.dpo.trainer import AxolotlDPOTrainer

from sparsepo_plugin.adapters.axolotl.plugin import stopping_the_run
from sparsepo_plugin.adapters.trl.trainer import PreferenceMixin


class AxolotlSparsePOTrainer(PreferenceMixin, AxolotlDPOTrainer):
    """Axolotl's trainer; errors that the user can mend end the run in one line."""

    def __init__(self, *args: Any, **options: Any) -> None:
        with stopping_the_run():
            super().__init__(*args, **options)

    def train(self, *args: Any, **options: Any) -> Any:
        """Upstream's training."""
        with stopping_the_run():
            return super().train(*args, **options)

    def say_end(self) -> None:
        """Nothing yet: the plugin says it, after Axolotl has saved the policy."""
