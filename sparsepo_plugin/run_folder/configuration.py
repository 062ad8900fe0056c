"""What a run is: its effective configuration and the versions it ran with."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sparsepo_plugin import config
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import write_text

FILE = "sparsepo_config.yaml"
RUN_FILE = "sparsepo_run.json"
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


def write(folder: Path, configuration: str, record: dict[str, Any], processes: int) -> None:
    """Write both files.

    Args:
      folder: output folder of the run.
      configuration: YAML text.
      record: loss, options and reference_shape, as ConfiguredLoss.record gives them.
      processes: number of processes.
    """
    write_text(folder / FILE, configuration)
    run = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "processes": processes,
        "python": platform.python_version(),
        "versions": {name: known for name in _PACKAGES if (known := _version(name))},
        **record,
    }
    write_text(folder / RUN_FILE, json.dumps(run, indent=2) + "\n")


def read(folder: Path) -> dict[str, Any]:
    """Effective configuration with dotted keys; empty where the folder has none."""
    path = folder / FILE
    return config.read_flat(path) if path.is_file() else {}


def read_run(folder: Path) -> dict[str, Any]:
    """Start, versions, loss and options; empty where the folder has none.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / RUN_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path}: got no JSON object; is the file cut off? remove it, nothing else needs it")
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
