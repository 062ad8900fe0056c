"""Token statistics straight from hidden states and output heads, without the logits of a whole batch."""

from __future__ import annotations

from sparsepo_plugin.fused.heads import HeadWeights, LogitMap
from sparsepo_plugin.fused.statistics import ReferenceRows, fused_statistics

__all__ = ["HeadWeights", "LogitMap", "ReferenceRows", "fused_statistics"]
