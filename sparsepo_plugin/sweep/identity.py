"""What makes two runs the same: effective configuration and the content of local models and data."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from sparsepo_plugin import config
from sparsepo_plugin.adapters.openrlhf import flags
from sparsepo_plugin.report.plots.groups import identity

_INPUTS = ("model.model_name_or_path", "ref.model_name_or_path", "data.dataset", "eval.dataset")
_CHUNK = 1 << 22


def key_of(parsed: flags.Parsed) -> str:
    """Hexadecimal key of a run: equal for equal effective configuration and inputs, whatever the folder."""
    effective = dict(config.flatten(yaml.safe_load(config.dump(parsed.arguments))))
    content = {"configuration": identity(effective), "inputs": _inputs(effective)}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _inputs(effective: dict[str, Any]) -> dict[str, str]:
    parts = [part for key in _INPUTS for part in str(effective.get(key) or "").split(",")]
    paths = {part.split("@")[0].strip() for part in parts}
    return {path: digest(path) for path in sorted(paths) if path and Path(path).exists()}


@functools.cache
def digest(path: str) -> str:
    """Digest of a file, or of every file of a folder with its name; read once per process."""
    whole = hashlib.sha256()
    root = Path(path)
    for file in [root] if root.is_file() else sorted(item for item in root.rglob("*") if item.is_file()):
        whole.update(str(file.relative_to(root)).encode() + b"\0")
        with open(file, "rb") as opened:
            while chunk := opened.read(_CHUNK):
                whole.update(chunk)
    return whole.hexdigest()
