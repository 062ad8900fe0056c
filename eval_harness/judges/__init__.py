"""Judges: importing this package registers every sibling module's judge."""

import importlib
import pkgutil

from eval_harness.judges.ask import ask
from eval_harness.judges.registry import build_judge, read_judge
from eval_harness.judges.types import Answer, Judge, Question

__all__ = ["Answer", "Judge", "Question", "ask", "build_judge", "read_judge"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
