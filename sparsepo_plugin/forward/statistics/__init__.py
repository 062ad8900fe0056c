"""Token statistics straight from hidden states and output heads, without the logits of a whole batch."""

from __future__ import annotations

from sparsepo_plugin.forward.head_weights import HeadWeights, LogitMap
from sparsepo_plugin.forward.statistics.fused import ReferenceRows, fused_statistics

__all__ = ["HeadWeights", "LogitMap", "ReferenceRows", "fused_statistics"]
