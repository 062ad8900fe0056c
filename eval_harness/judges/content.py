"""Content identity of a local judge's model, hashed once per process."""

import dataclasses
from functools import lru_cache
from typing import Any

from eval_harness.models.identity import identity
from eval_harness.models.reference import resolve


@lru_cache
def content(model: str) -> dict[str, Any]:
    """Hashes of a model's files, JSON-ready, without its label. Raises UserError: missing or corrupt."""
    return {**dataclasses.asdict(identity(resolve(model))), "label": None}
