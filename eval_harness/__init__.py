"""Measure any checkpoint: suites of tasks in, versioned and paired per-item results out.

Importing this package is light: lm-eval, torch, transformers, datasets and vllm are imported inside the
functions that need them, so that `eval-harness ls` answers at once on any machine.
"""

from eval_harness.errors import UserError
from eval_harness.types import SCHEMA_VERSION, ItemRecord, ModelIdentity, Score, SuiteResult

__all__ = ["SCHEMA_VERSION", "ItemRecord", "ModelIdentity", "Score", "SuiteResult", "UserError"]
