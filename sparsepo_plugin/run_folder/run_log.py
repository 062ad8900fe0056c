"""What a run leaves beside its checkpoint: effective configuration, versions, one JSON line per step."""

from __future__ import annotations

import json
import math
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sparsepo_plugin import checkpoint
from sparsepo_plugin.run_folder import token_record

CONFIG_FILE = "sparsepo_config.yaml"
RUN_FILE = "sparsepo_run.json"
METRICS_FILE = "metrics.jsonl"
_PACKAGES = (
    "sparsepo",
    "torch",
    "transformers",
    "openrlhf",
    "trl",
    "axolotl",
    "deepspeed",
    "datasets",
    "peft",
)


class RunLog:
    """Writer of one process; inactive on all but the first.

    Args:
      folder: output folder of the run; must exist when ``start`` is called.
      active: whether this process writes.
    """

    def __init__(self, folder: Path, *, active: bool) -> None:
        self.folder, self.active = folder, active

    def start(self, configuration: str, record: dict[str, Any], processes: int, *, step: int) -> None:
        """Write configuration and versions; drop metrics after ``step``, where training goes on."""
        if not self.active:
            return
        checkpoint.write_text(self.folder / CONFIG_FILE, configuration)
        run = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "processes": processes,
            "python": platform.python_version(),
            "versions": {name: found for name in _PACKAGES if (found := _version(name))},
            **record,
        }
        checkpoint.write_text(self.folder / RUN_FILE, json.dumps(run, indent=2) + "\n")
        checkpoint.write_text(self.folder / METRICS_FILE, _lines_until(self.folder / METRICS_FILE, step))
        histograms = self.folder / token_record.HISTOGRAMS_FILE
        if step and histograms.is_file():
            checkpoint.write_text(histograms, _lines_until(histograms, step))
        elif not step:
            token_record.forget(self.folder)

    def metrics(self, step: int, split: str, values: dict[str, Any]) -> None:
        """Append a line: step, split ("train" or "eval"), every metric (null where not a finite number)."""
        if not self.active:
            return
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        line = json.dumps({"step": step, "split": split, **finite})
        with open(self.folder / METRICS_FILE, "a", encoding="utf-8") as file:
            file.write(line + "\n")


class DeadMaskWatch:
    """Notices a mask that has been 0 on every response token for a while: no gradient will revive it.

    Args:
      patience: consecutive steps before the warning, which is given once per mask.
    """

    def __init__(self, patience: int = 20) -> None:
        self.patience = patience
        self._dead: dict[str, int] = {}

    def look(self, metrics: dict[str, float], step: int) -> str:
        """Return the warning that this step's metrics call for, or an empty string."""
        warnings = []
        for name in ("reward_mask", "kl_mask"):
            dead = metrics.get(f"{name}_sparsity") == 1.0
            self._dead[name] = self._dead.get(name, 0) + 1 if dead else 0
            if self._dead[name] == self.patience:
                warnings.append(
                    f"warning: the {name.replace('_', ' ')} has been 0 on every response token for "
                    f"{self.patience} steps (step {step}): it is dead and trains no token; start "
                    f"again with --sparsepo.init unit, a lower L1 penalty or --sparsepo.floor"
                )
        return "\n".join(warnings)


def _lines_until(file: Path, step: int) -> str:
    """Lines of an interrupted run up to a step; what it wrote after its last checkpoint is done again."""
    text = file.read_text(encoding="utf-8") if step and file.is_file() else ""
    # The last piece has no newline: it is empty, or a line that a kill cut off.
    lines = text.split("\n")[:-1]
    return "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
