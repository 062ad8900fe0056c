"""Replace attributes for the length of a with block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def patched(owner: object, **values: Any) -> Iterator[None]:
    """Set attributes of ``owner`` and put the old ones back, whatever happens inside.

    Raises:
      AttributeError: ``owner`` lacks one of the names (nothing is changed then).
    """
    old = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in old.items():
            setattr(owner, name, value)
