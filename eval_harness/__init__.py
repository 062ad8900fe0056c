"""Measure any checkpoint: suites of tasks in, versioned and paired per-item results out.

Importing this package is light: lm-eval, torch, transformers, datasets and vllm are imported inside the
functions that need them, so that `eval-harness ls` answers at once on any machine.

`eval_harness.gate(a, b, gates)` decides between two results on disk (docs/foreign.md); `eval_harness.gate` is
also the package of the gate's own modules, which the call does not hide.
"""

from types import ModuleType
from typing import TYPE_CHECKING, Any

from eval_harness.errors import UserError
from eval_harness.types import SCHEMA_VERSION, ItemRecord, ModelIdentity, Score, SuiteResult

if TYPE_CHECKING:
    from eval_harness.gate.paths import gate
else:
    from eval_harness import gate

    class _Gate(ModuleType):
        """The package `eval_harness.gate`, which can be called (Python reference, section 3.3.2)."""

        def __call__(self, *args: Any, **options: Any) -> Any:
            """`eval_harness.gate.paths.gate`, imported by the first call."""
            from eval_harness.gate import paths

            return paths.gate(*args, **options)

    gate.__class__ = _Gate

__all__ = ["SCHEMA_VERSION", "ItemRecord", "ModelIdentity", "Score", "SuiteResult", "UserError", "gate"]
