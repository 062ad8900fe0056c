"""Metrics of a run: summed over micro-batches and processes, logged and written when the trainer logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch import Tensor

from sparsepo_plugin import metrics
from sparsepo_plugin.adapters.step import gather
from sparsepo_plugin.forward.window import ResponseWindow
from sparsepo_plugin.metrics import DeadMaskWatch, MetricSum
from sparsepo_plugin.run_folder import metrics as metrics_file
from sparsepo_plugin.run_folder import tokens
from sparsepo_plugin.run_folder.log import RunLog
from sparsepo_plugin.run_folder.token_rows import TokenRows
from sparsepo_plugin.types import Masks, Split, TokenStats

# TRL's names of metrics that dashboards know, for the same numbers under ours.
_TRL_NAMES = {
    "rewards/chosen": "chosen_rewards",
    "rewards/rejected": "rejected_rewards",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "logps/chosen": "chosen_logps",
    "logps/rejected": "rejected_logps",
}


class PairLog:
    """Collects metrics since the last log, apart for training and evaluation.

    Args:
      folder: output folder of the run.
      active: whether this process writes files.
    """

    def __init__(self, folder: Path, *, active: bool) -> None:
        self.files = RunLog(folder, active=active)
        self._sums: dict[Split, dict[str, MetricSum]] = {"train": {}, "eval": {}}
        self._dead_masks = DeadMaskWatch(lambda option: f"loss_options.{option}")
        self._tokens_seen = 0.0

    def start(self, arguments: Any, record: dict[str, Any], processes: int, *, step: int) -> None:
        """Write configuration and versions; drop metrics after ``step``, where training goes on."""
        if self.files.active:
            self.files.folder.mkdir(parents=True, exist_ok=True)
            earlier = self.files.folder / metrics_file.FILE
            if not step and earlier.is_file() and earlier.stat().st_size:
                print(f"warning: {earlier} of an earlier run is replaced, and its token record", flush=True)
        header = "# Training arguments as they were in effect, for the record\n"
        text = yaml.safe_dump(_plain(arguments.to_dict()), sort_keys=True, allow_unicode=True)
        self.files.start(header + text, record, processes, step=step)

    def add(
        self, split: Split, sums: dict[str, MetricSum], tokens: Tensor, *, finite: bool, device: torch.device
    ) -> bool:
        """Add a micro-batch of every process, in one collective.

        Args:
          split: "train" or "eval".
          sums: of this process; the same names on every one.
          tokens: attended tokens of this process, a number.
          finite: whether this process's loss is.
          device: where collectives work.

        Returns:
          Whether the loss is finite on every process.
        """
        rows = [(float(not finite), float(tokens)), *sums.values()]
        values = torch.tensor(rows, dtype=torch.float64, device=device)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(values)
        (bad, tokens_seen), *rest = values.tolist()
        self._tokens_seen += tokens_seen if split == "train" else 0
        summed = {name: MetricSum(*row) for name, row in zip(sums, rest)}
        self._sums[split] = metrics.add(self._sums[split], summed)
        return bad == 0

    def forget(self, split: Split) -> None:
        """Drop what was collected."""
        self._sums[split] = {}

    def write(self, split: Split, step: int, logs: dict[str, Any]) -> dict[str, float]:
        """Write a line of metrics.jsonl.

        Args:
          split: "train" or "eval".
          step: optimizer steps so far.
          logs: what the trainer itself logs; gives learning rate and gradient norm.

        Returns:
          What to log besides: our names but ``loss``, and TRL's for the same numbers. Empty if nothing was
          seen.
        """
        if not self._sums[split]:
            return {}
        means = metrics.ratios(self._sums[split])
        self.forget(split)
        rates = {name: logs.get(name) for name in ("learning_rate", "grad_norm")} if split == "train" else {}
        self.files.metrics(step, split, {**means, **rates})
        if split == "train" and (warning := self._dead_masks.look(means, step)) and self.files.active:
            print(warning, flush=True)
        known = {name: means[ours] for name, ours in _TRL_NAMES.items()} | {"num_tokens": self._tokens_seen}
        return {**known, **{name: value for name, value in means.items() if name != "loss"}}


class EvaluationPairs:
    """Which pairs of the evaluation data a batch holds, and the token record of the first of them.

    accelerate deals whole batches to the processes in turn and fills the last ones up with copies.

    Args:
      limit: pairs to record, from the first.
      tokenizer: turns token ids into text.
      rank: number of this process.
      processes: their number.
      batch_size: pairs per batch and process.
    """

    def __init__(self, limit: int, tokenizer: Any, rank: int, processes: int, batch_size: int) -> None:
        self.record = TokenRows(limit, tokenizer)
        self._rank, self._processes, self._batch_size = rank, processes, batch_size
        self._length, self._batch = 0, 0

    def begin(self, length: int) -> None:
        """Start an evaluation of ``length`` pairs."""
        self._length, self._batch = length, 0

    def next(self, pairs: int) -> list[int]:
        """Indices of the next batch's pairs; copies have one beyond the data."""
        start = (self._batch * self._processes + self._rank) * self._batch_size
        self._batch += 1
        return list(range(start, start + pairs))

    def keep(self, indices: list[int]) -> list[bool]:
        """Which pairs are no copies."""
        return [index < self._length for index in indices]

    def add(
        self, indices: list[int], window: ResponseWindow, ids: Tensor, stats: TokenStats, masks: Masks
    ) -> None:
        """Record the pairs that are wanted and no copies.

        Args:
          indices: index of every pair in the evaluation data.
          window: where the responses lie in ``ids``.
          ids: input tokens, [2 * pairs, seq].
          stats: token statistics in the window's layout.
          masks: masks, same shape.
        """
        limit = min(self.record.limit, self._length)
        if limit and min(indices) < limit:
            real = [index if index < self._length else self.record.limit for index in indices]
            starts = (window.source[:, 0] % ids.shape[1]).tolist()
            prompts = [row[: start + 1] for row, start in zip(ids, starts)]
            self.record.add(real, window.token_ids, stats, masks, prompts)

    def finish(self, folder: Path, step: int) -> None:
        """Write the record of all processes."""
        if not self.record.limit:
            return
        rows = [row for part in gather(self.record.take()) for row in part]
        if self._rank == 0:
            tokens.write(folder, step, rows)


def _plain(value: Any) -> Any:
    """Values that YAML can write safely."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
