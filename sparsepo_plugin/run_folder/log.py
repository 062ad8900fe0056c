"""What a training writes into its output folder as it goes, beside its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsepo_plugin.run_folder import configuration, histograms, lines, metrics, tokens
from sparsepo_plugin.run_folder.trackers import Trackers
from sparsepo_plugin.types import Split


class RunLog:
    """Writer of one process; inactive on all but the first.

    Args:
      folder: output folder of the run; must exist when ``start`` is called.
      active: whether this process writes.
      trackers: what the metrics go to as well.
    """

    def __init__(self, folder: Path, *, active: bool, trackers: Trackers | None = None) -> None:
        self.folder, self.active, self._trackers = folder, active, trackers

    def start(self, text: str, record: dict[str, Any], processes: int, *, step: int) -> None:
        """Write configuration and versions; drop metrics after ``step``, where training goes on."""
        if not self.active:
            return
        configuration.write(self.folder, text, record, processes)
        lines.keep_until(self.folder / metrics.FILE, step)
        if step:
            if (self.folder / histograms.FILE).is_file():
                lines.keep_until(self.folder / histograms.FILE, step)
            tokens.keep_before(self.folder, step + 1)
            return
        for name in (tokens.FILE, tokens.EARLIER, histograms.FILE):
            (self.folder / name).unlink(missing_ok=True)

    def metrics(self, step: int, split: Split, values: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        if not self.active:
            return
        metrics.append(self.folder, step, split, values)
        if self._trackers is not None:
            self._trackers.log(step, split, values)

    def close(self) -> None:
        """End the trackers."""
        if self._trackers is not None:
            self._trackers.close()
