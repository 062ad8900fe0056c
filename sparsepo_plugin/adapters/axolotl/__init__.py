"""Axolotl: the registered losses through a plugin.

``plugins: [sparsepo_plugin.adapters.axolotl.SparsePOPlugin]`` with ``rl: dpo`` and ``preference_loss: NAME``.
Axolotl goes on without a plugin whose module fails to import. So this one imports nothing that can fail, and
refuses the run itself, in ``register``.
"""

from __future__ import annotations

from sparsepo_plugin.adapters.axolotl.plugin import SparsePOPlugin

__all__ = ["SparsePOPlugin"]
